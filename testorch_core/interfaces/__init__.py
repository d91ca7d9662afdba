"""The interfaces that plugin authors read: one module a family, and `plugin` for what all have in common."""
