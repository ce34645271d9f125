"""The report's parts in words and figures, in the page's order; whatever they hold is data, which the template escapes."""
