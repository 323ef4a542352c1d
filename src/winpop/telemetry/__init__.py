"""What the service says about itself: its log."""
