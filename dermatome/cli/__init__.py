"""The command line: the same functions as the platform runs, for a folder of images or one file."""
