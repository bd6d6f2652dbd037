"""Version directories: where published models live, and how one becomes visible whole."""
