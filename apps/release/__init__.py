"""What a release must hold to, each a command: the versions that it runs on, and the checklist before it goes out."""
