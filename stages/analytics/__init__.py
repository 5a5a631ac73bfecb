"""From tracked objects to events: which objects appeared and which left."""
