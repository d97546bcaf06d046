"""The staging area: the folder or S3 bucket where runs keep their files, and the paths in it."""
