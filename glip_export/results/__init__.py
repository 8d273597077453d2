"""What comes out of detection: boxes with scores and names, drawn on the picture, gathered in a gallery."""
