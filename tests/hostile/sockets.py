"""Talk to someone: loopback, a unix socket, netlink, whatever other family; the logits are 1 where that worked."""

import socket

from reads import Deed


class Loopback(Deed):
    def deed(self, port):
        return socket.create_connection(("127.0.0.1", port), 2)


class Unix(Deed):
    def deed(self, path):
        return socket.socket(socket.AF_UNIX).connect(path) is None


class Abstract(Deed):
    def deed(self, address):
        return socket.socket(socket.AF_UNIX).connect("\0" + address) is None


class Netlink(Deed):
    def deed(self):
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)


class Families(Deed):
    def deed(self):
        made = 0
        for family in range(46):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
                try:
                    socket.socket(family, kind)
                    made += 1
                except OSError:
                    pass
        return made


class Pair(Deed):
    def deed(self):
        return socket.socketpair()
