"""HTTP/1.1 clients that keep to a rate, or only keep their connections (asyncio, standard library only).
  paced.py rate PORT RATE CONNECTIONS SECONDS TOKENS [SKIP [SWITCH_AT OTHER_TOKENS]]
  paced.py idle PORT CONNECTIONS TOKENS
`rate` sends one token after the other, the first SKIP left out, and those of the other file after
SWITCH_AT seconds. Latency counts from the moment when a request wanted to go, also where its
connection was not free yet. Prints one JSON line. `idle` makes one request on each connection, prints READY, and keeps
them until a line comes on its standard input."""
import asyncio, collections, json, sys, time


def lines(path, skip=0):
    with open(path) as f:
        return f.read().split()[skip:]


def request(token):
    return f"GET /small HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


class Client(asyncio.Protocol):
    """One connection: one request at a time, the others wait for it."""
    def __init__(self, answered):
        self.answered, self.waiting, self.due, self.buffer = answered, collections.deque(), None, b""

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, due, bytes):
        self.waiting.append((due, bytes))
        if self.due is None:
            self.step()

    def step(self):
        self.due = None
        if self.waiting:
            self.due, bytes = self.waiting.popleft()
            self.transport.write(bytes)

    def data_received(self, data):
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        if len(body) < length:
            return
        self.buffer = b""
        self.answered(self.due, int(head.split(b" ", 2)[1]))
        self.step()

    def connection_lost(self, error):
        if self.due is not None:
            self.answered(self.due, 0)
        self.due = None


def percentile(sorted_values, share):
    if not sorted_values:
        return None
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))] * 1e6


async def rate(port, rate, connections, seconds, tokens, other, switch_at):
    loop = asyncio.get_running_loop()
    answers = []
    answered = lambda due, status: answers.append((due, loop.time() - due, status))
    clients = [(await loop.create_connection(lambda: Client(answered), "127.0.0.1", port))[1] for _ in range(connections)]
    start = loop.time() + 0.2
    count = int(rate * seconds)
    for i in range(count):
        due = start + i / rate
        await asyncio.sleep(max(0, due - loop.time()))
        these = tokens if due - start < switch_at else other
        clients[i % connections].ask(loop.time(), request(these[i % len(these)]))
    for _ in range(500):
        if len(answers) == count:
            break
        await asyncio.sleep(0.01)
    took = sorted(latency for _, latency, status in answers if status == 200)
    by_second = []
    for second in range(int(seconds)):
        these = sorted(latency for due, latency, _ in answers if second <= due - start < second + 1)
        by_second.append([percentile(these, 0.5), percentile(these, 0.99)])
    statuses = collections.Counter(status for _, _, status in answers)
    print(json.dumps({"req": count, "ok": statuses[200], "statuses": statuses, "p50": percentile(took, 0.5),
                      "p99": percentile(took, 0.99), "max": percentile(took, 1), "seconds": by_second}), flush=True)


async def idle(port, connections, tokens):
    loop = asyncio.get_running_loop()
    statuses = collections.Counter()
    clients = []
    for i in range(connections):
        done = loop.create_future()
        def answered(due, status, done=done):
            statuses[status] += 1
            done.done() or done.set_result(None)
        clients.append((await loop.create_connection(lambda: Client(answered), "127.0.0.1", port))[1])
        clients[-1].ask(0, request(tokens[i % len(tokens)]))
        await asyncio.wait_for(done, 10)
    print("READY", json.dumps(statuses), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    alive = sum(not client.transport.is_closing() for client in clients)
    print(json.dumps({"alive": alive}), flush=True)


if __name__ == "__main__":
    mode, port, a = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if mode == "rate":
        switch = (lines(a[6]), float(a[5])) if len(a) > 5 else ([], float("inf"))
        asyncio.run(rate(port, float(a[0]), int(a[1]), float(a[2]), lines(a[3], int(a[4]) if len(a) > 4 else 0), *switch))
    else:
        asyncio.run(idle(port, int(a[0]), lines(a[1])))
