// fanlimit: the physical limit that fan-out is measured against. No framework, no state, no protocol logic: each round it
// formats S items, copies K of them into one WebSocket text frame a client, and calls send(2).
//   cc -O2 -o fanlimit fanlimit.c && ./fanlimit PORT CLIENTS HZ K ITEM_BYTES SECONDS
// It prints the port that it listens on (PORT may be 0), takes CLIENTS connections, sends each its first round once it has
// sent a message, and exits after SECONDS. An item is ITEM_BYTES long with its comma, padded where need be: a server under
// test has the same K, HZ and item bytes, and whoever measures it measures both from outside in the same way.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
enum { S = 500, ITEM_MAX = 1024, K_MAX = S };

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

int main(int argc, char **argv) {
  if (argc < 7) { fprintf(stderr, "usage: fanlimit PORT CLIENTS HZ K ITEM_BYTES SECONDS\n"); return 2; }
  int port = atoi(argv[1]), n = atoi(argv[2]), k = atoi(argv[4]), size = atoi(argv[5]), one = 1, *fd = malloc(sizeof(int) * n);
  double hz = atof(argv[3]), end = now() + atof(argv[6]);
  if (n < 1 || hz <= 0 || k < 1 || k > K_MAX || size >= ITEM_MAX) { fprintf(stderr, "fanlimit: an argument is out of range\n"); return 2; }
  int l = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof a;
  if (bind(l, (void *)&a, sizeof a) || listen(l, 4096) || getsockname(l, (void *)&a, &length)) { perror("fanlimit"); return 1; }
  printf("%d\n", ntohs(a.sin_port));
  fflush(stdout);
  const char *ok = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
  struct timeval patience = {.tv_sec = 30};
  setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  for (int i = 0; i < n; i++) {
    char b[4096]; int got = 0, r;
    if ((fd[i] = accept(l, 0, 0)) < 0) { perror("fanlimit: accept"); return 1; }
    setsockopt(fd[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd[i], IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof one);
    b[0] = 0;
    do { r = read(fd[i], b + got, sizeof b - 1 - got); got += r > 0 ? r : 0; b[got] = 0; } while (r > 0 && !strstr(b, "\r\n\r\n"));
    if (write(fd[i], ok, strlen(ok)) < 0) perror("fanlimit");
  }
  char first[4096];
  for (int i = 0; i < n; i++) if (read(fd[i], first, sizeof first) <= 0) { fprintf(stderr, "fanlimit: no message\n"); return 1; }
  static char item[S][ITEM_MAX]; static int len[S]; static unsigned char out[10 + 256 + K_MAX * ITEM_MAX];
  long seq = 0;
  for (double next = now(); now() < end;) {
    seq++;
    for (int i = 0; i < S; i++) {
      int o = snprintf(item[i], ITEM_MAX, "{\"symbol\":\"SYM%03d\",\"prev\":%ld,\"seq\":%ld,\"n\":1,\"ts\":%ld,\"bid\":%.2f,\"ask\":%.2f,\"bid_size\":%ld",
                       i, seq, seq + 1, 1700000000000000L + seq, 100.25 + seq * .01, 100.27 + seq * .01, 100 + seq % 900);
      while (o < size - 2) item[i][o++] = ' ';  // white space: as many bytes as the server under test sends
      item[i][o++] = '}'; item[i][o++] = ',';
      len[i] = o;
    }
    for (int c = 0; c < n; c++) {
      int o = 10 + snprintf((char *)out + 10, 128, "{\"type\":\"update\",\"channel\":\"ticker\",\"ts\":%ld,\"items\":[", 1700000000000000L + seq);
      for (int j = 0; j < k; j++) { int s = (c * 7 + j * 13) % S; memcpy(out + o, item[s], len[s]); o += len[s]; }
      out[o - 1] = ']'; out[o++] = '}';
      int body = o - 10, h = body < 126 ? 2 : body < 65536 ? 4 : 10; unsigned char *f = out + 10 - h;
      f[0] = 0x81;
      if (h == 2) f[1] = body; else if (h == 4) { f[1] = 126; f[2] = body >> 8; f[3] = body & 255; }
      else { f[1] = 127; for (int b = 0; b < 8; b++) f[2 + b] = (uint64_t)body >> (56 - 8 * b) & 255; }
      // A frame cut short would break the stream: the reader is not keeping up, and the figure would be worth nothing.
      if (send(fd[c], f, h + body, MSG_DONTWAIT | MSG_NOSIGNAL) != h + body) { fprintf(stderr, "fanlimit: a client does not keep up\n"); return 1; }
    }
    next += 1 / hz;
    double wait = next - now();
    if (wait > 0) usleep(wait * 1e6);
  }
  return 0;
}
