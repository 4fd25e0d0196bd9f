"""A proxy before a broker that once says that the broker does not lead, of a batch that the broker has written.

Clients stay with the proxy: where the broker names itself in an answer, the proxy stands in its place.
"""

import socket
import struct
import threading

PRODUCE, NOT_LEADER_OR_FOLLOWER = 0, 6
FLEXIBLE_PRODUCE = 9  # the first version whose answers have compact arrays


class Liar:
    def __init__(self, broker, topic):
        host, port = broker.split(":")
        self.broker, self.topic = (host, int(port)), topic.encode()
        self.armed, self.lied = False, threading.Event()
        self.listener = socket.create_server((host, 0))
        own = self.listener.getsockname()[1]
        self.address = f"{host}:{own}"
        self.real, self.ours = (host.encode() + struct.pack(">i", at) for at in (int(port), own))
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            broker = socket.create_connection(self.broker)
            produced = {}  # correlation id: version
            for work in (self.requests, self.answers):
                threading.Thread(target=work, args=(client, broker, produced), daemon=True).start()

    def requests(self, client, broker, produced):
        for frame in frames(client):
            api, version, correlation = struct.unpack(">hhi", frame[:8])
            if api == PRODUCE:
                produced[correlation] = version
            broker.sendall(struct.pack(">i", len(frame)) + frame)
        broker.shutdown(socket.SHUT_RDWR)  # which ends the answers

    def answers(self, client, broker, produced):
        for frame in frames(broker):
            frame = frame.replace(self.real, self.ours)
            version = produced.pop(struct.unpack(">i", frame[:4])[0], None)
            if version is not None and self.armed and not self.lied.is_set():
                at = frame.index(self.topic) + len(self.topic) + (4 if version < FLEXIBLE_PRODUCE else 1) + 4
                [code] = struct.unpack(">h", frame[at:at + 2])
                assert code == 0, code
                frame = frame[:at] + struct.pack(">h", NOT_LEADER_OR_FOLLOWER) + frame[at + 2:]
                self.lied.set()
            client.sendall(struct.pack(">i", len(frame)) + frame)
        client.shutdown(socket.SHUT_RDWR)


def frames(connection):
    def exactly(count):
        data = b""
        while len(data) < count:
            more = connection.recv(count - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    try:
        while True:
            yield exactly(struct.unpack(">i", exactly(4))[0])
    except OSError:
        return
