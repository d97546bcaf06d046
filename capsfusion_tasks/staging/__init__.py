"""The staging area, where runs keep their files: a folder or an S3 bucket, and the paths in it."""
