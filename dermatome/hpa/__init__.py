"""The Human Protein Atlas (HPA): its pages, its images, and a client that fetches both with few requests."""
