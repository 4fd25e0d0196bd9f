"""Proxies on loopback addresses between the nodes of a cluster, so that links between them can be cut.

Each node listens on ports of its own and advertises those of its proxies. A proxy learns from /proc which process dials (a process of
its own looks that up: it takes many system calls, and among busy threads each of them would wait). A link that is cut is silent: its
bytes wait, as packets do that a network drops, and new connections are taken and stay silent. What mends it lets the bytes go on. A
link that is slow delays each chunk by a time of its own, so what two connections carry changes its order. A link is one direction:
(from, to) are the bytes that `from` sends to `to`.
"""

import asyncio, concurrent.futures, os, random, threading

CHUNK = 1 << 16
SLOW_S = 0.1
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")  # Java dials IPv4 from sockets of IPv6


class Proxies:
    def __init__(self, cluster):
        self.cluster, self.links_cut, self.links_slow = cluster, set(), set()
        self.seen = set()  # which links there have been
        self.looker = concurrent.futures.ProcessPoolExecutor(1)
        self.looker.submit(who_dials, 0, 0, {}).result()  # begins now, while there are neither threads nor sockets here
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        for node in cluster.nodes:
            ports = [self.on_loop(self.listen(node, port)) for port in (node.clients, node.controllers)]
            node.advertised = tuple(ports)

    def on_loop(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)

    def cut(self, source, target):
        self.links_cut.add((source, target))

    def slow(self, source, target):
        self.links_slow.add((source, target))

    def mend(self):
        self.links_cut.clear()
        self.links_slow.clear()

    async def listen(self, node, port):
        async def take(reader, writer):
            await self.serve(node, port, reader, writer)

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        return server.sockets[0].getsockname()[1]

    async def serve(self, node, port, reader, writer):
        ports = writer.get_extra_info("peername")[1], writer.get_extra_info("sockname")[1]
        pids = {node.id: node.process.pid for node in self.cluster.nodes if node.process}
        source = await self.loop.run_in_executor(self.looker, who_dials, *ports, pids)
        self.seen.add((source, node.id))
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
                if link in self.links_slow:
                    await asyncio.sleep(random.uniform(0, SLOW_S))
                while link in self.links_cut:
                    await asyncio.sleep(0.02)
                writer.write(data)
                await writer.drain()
            while link in self.links_cut:  # nobody hears of an end either
                await asyncio.sleep(0.02)
        except OSError:
            pass  # the other side is gone, and serve ends both


def who_dials(port, proxy, pids):
    """The node whose process has the socket with this port that is connected to this proxy; None for anybody else."""
    for path in TABLES:
        with open(path) as table:
            rows = (line.split() for line in table)
            inodes = (row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[2].endswith(f":{proxy:04X}"))
            inode = next(inodes, None)
        for id, pid in pids.items():
            if inode and has_socket(pid, f"socket:[{inode}]"):
                return id
    return None


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
