"""The report's pictures: SVG that takes its colours and its font from the page around it."""
