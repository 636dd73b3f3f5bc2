// Writes a line for each request that it took, and answers with method and target; `/switch` at the end of a path changes
// the protocol to an echo.
'use strict';
const fs = require('fs');
const http = require('http');
const [log, host, port] = process.argv.slice(2);

const see = (request, body, whole) => {
  const { method, url: target } = request;
  const id = request.headers['x-request-id'] ?? '';
  fs.appendFileSync(log, JSON.stringify({ id, method, target, body: body.toString('latin1'), whole }) + '\n');
};

const server = http.createServer({ keepAliveTimeout: 30000 }, (request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('error', () => {}); // its close follows
  request.on('close', () => request.complete || see(request, Buffer.concat(pieces), false));
  request.on('end', () => {
    see(request, Buffer.concat(pieces), true);
    const words = `${request.method} ${request.url}`;
    response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': words.length });
    response.end(words);
  });
});
server.on('upgrade', (request, socket, first) => {
  see(request, first, true); // whatever came behind its head would show
  socket.on('error', () => {});
  if (request.url.endsWith('/switch')) {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
    socket.write(first);
    socket.pipe(socket);
    return;
  }
  const words = `${request.method} ${request.url}`;
  socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${words.length}\r\nConnection: close\r\n\r\n${words}`);
});
server.on('clientError', (error, socket) => {
  // A connection that ends in the middle of a body is no request; bytes that are none would be.
  if (error.code?.startsWith('HPE_') && error.code !== 'HPE_INVALID_EOF_STATE') {
    see({ method: error.code, url: '', headers: {} }, error.rawPacket ?? Buffer.alloc(0), true);
  }
  socket.destroy();
});
server.listen(Number(port), host);
