"""What both WebSocket transports share: the guard between a socket and a WebSocket library.

`listener` accepts and keeps the numbers (`places`), `requests` judges who asks to come in, `stream` with `frames` watches
over every byte, `peer` closes politely, `keepalive` looks after the silent, `tls` holds certificates.
"""
