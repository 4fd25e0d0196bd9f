"""Proxies on loopback addresses between the nodes of a cluster, so that links between them can be cut.

Each node listens on ports of its own and advertises those of its proxies. A proxy learns from /proc which process dials. A link that is
cut is silent: its bytes wait, as packets do that a network drops, and new connections are taken and stay silent. What mends it
lets the bytes go on. A link is one direction: (from, to) are the bytes that `from` sends to `to`.
"""

import asyncio, os, threading

CHUNK = 1 << 16


class Proxies:
    def __init__(self, cluster):
        self.cluster, self.links_cut = cluster, set()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        for node in cluster.nodes:
            ports = [self.on_loop(self.listen(node, port)) for port in (node.clients, node.controllers)]
            node.advertised = tuple(ports)

    def on_loop(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def cut(self, source, target):
        self.links_cut.add((source, target))

    def mend(self):
        self.links_cut.clear()

    async def listen(self, node, port):
        async def take(reader, writer):
            await self.serve(node, port, reader, writer)

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        return server.sockets[0].getsockname()[1]

    async def serve(self, node, port, reader, writer):
        source = self.who_dials(writer.get_extra_info("peername")[1])
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()  # a refusal as near as a proxy comes to one
            return
        ways = [
            asyncio.ensure_future(self.copy(reader, far_writer, (source, node.id))),
            asyncio.ensure_future(self.copy(far_reader, writer, (node.id, source))),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, far_writer):
            end.transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)

    async def copy(self, reader, writer, link):
        try:
            while data := await reader.read(CHUNK):
                while link in self.links_cut:
                    await asyncio.sleep(0.02)
                writer.write(data)
                await writer.drain()
            while link in self.links_cut:  # nobody hears of an end either
                await asyncio.sleep(0.02)
        except OSError:
            pass  # the other side is gone, and serve ends both

    def who_dials(self, port):
        """The node whose process has a socket with this port; None for anybody else."""
        wanted = f":{port:04X}"
        with open("/proc/net/tcp") as table:
            rows = (line.split() for line in table)
            inode = next((row[9] for row in rows if row[1].endswith(wanted)), None)
        for node in self.cluster.nodes:
            if inode and node.process and self.has_socket(node.process.pid, f"socket:[{inode}]"):
                return node.id
        return None

    @staticmethod
    def has_socket(pid, name):
        def target(fd):
            try:
                return os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                return None  # closed meanwhile

        try:
            return any(target(fd) == name for fd in os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            return False  # it ended meanwhile
