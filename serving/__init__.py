"""The server that follows the champion."""
