"""What no package has: a name server that is slow or says nothing, and proxies with odd answers."""

import socket
import threading
import time


def names():
    """slow.corp is answered after three seconds, dead.corp never, everything else is not known."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("10.9.0.20", 53))
    while True:
        query, client = server.recvfrom(512)
        threading.Thread(target=answer, args=(server, query, client), daemon=True).start()


def answer(server, query, client):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += query[at] + 1
    name, question = ".".join(labels), query[12 : at + 5]
    if name == "dead.corp":
        return
    if name == "slow.corp":
        time.sleep(3)
        is_a = question[-4:-2] == b"\0\1"
        head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x0a\x09\0\1" if is_a else b""
        server.sendto(head + question + record, client)
        return
    server.sendto(query[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + question, client)


def proxy(port, head):
    """Answers a request with `head`, and after a 2xx is the way to the bridge's TLS port."""
    server = socket.create_server(("10.9.0.2", port))
    while True:
        client, _ = server.accept()
        threading.Thread(target=tunnel, args=(client, head), daemon=True).start()


def tunnel(client, head):
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        request += client.recv(1) or b"\r\n\r\n"
    client.sendall(head)
    if not head.startswith(b"HTTP/1.1 2"):
        client.close()
        return
    bridge = socket.create_connection(("10.9.0.1", 443), source_address=("10.9.0.12", 0))
    for source, sink in ((client, bridge), (bridge, client)):
        threading.Thread(target=pump, args=(source, sink), daemon=True).start()


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


ODD = {
    3131: b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n",
    3133: b"HTTP/1.1 201 Created\r\n\r\n",
    3134: b"HTTP/1.1 200\r\n\r\n",
    3135: b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    3132: b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
}
for port, head in ODD.items():
    threading.Thread(target=proxy, args=(port, head), daemon=True).start()
names()
