"""The Human Protein Atlas: its pages, its images, and a polite way to fetch both."""
