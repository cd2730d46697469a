//! Drives ovpn over TUN and UDP, with TLS by OpenSSL over the reliability layer.
