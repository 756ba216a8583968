"""What ties a node to its data, two ways behind one seam: commitments, and encryption with an authority."""
