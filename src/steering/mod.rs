//! Renders the packet rules and routes that bring traffic to the listener. Runs nothing.
