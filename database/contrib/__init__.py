"""What joins this package to others. Nothing here is imported by the rest; each module needs the extra of its name."""
