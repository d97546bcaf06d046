"""The captions view: a small web app over the warehouse, for people who look at captions and at runs."""
