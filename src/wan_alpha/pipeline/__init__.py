"""Text (or an image) -> RGBA video -> files that editors, browsers and game engines open."""
