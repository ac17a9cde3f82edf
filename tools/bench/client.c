/*
 * A strict TFTP client for measurements. It fetches a file from 127.0.0.1 repeatedly, and checks every packet.
 *
 *     client [-b blksize] [-w windowsize] [-n fetches] [-t milliseconds] [-p portion] PORT NAME SIZE CRC32
 *
 * RFC 1350, 2347, 2348, 7440. -t is the timeout after which the last ACK or the request is retransmitted. SIZE is in
 * bytes, CRC32 in hexadecimal; the content is checked after the clock has stopped. Each fetch prints a line:
 *
 *     BEGAN SECONDS FIRST LAST BLKSIZE WINDOWSIZE REPEATS
 *
 * BEGAN in seconds of the monotonic clock, FIRST and LAST the seconds for the first and last `portion` bytes, BLKSIZE
 * and WINDOWSIZE the granted values, REPEATS the number of timeouts. On an error it exits with a line on standard error
 * and status 1.
 */
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { RRQ = 1, DATA = 3, ACK = 4, ERROR = 5, OACK = 6, HEADER = 4, MAX_REQUEST = 512, MAX_PACKET = 65468 };
enum { PATIENCE = 20 }; /* timeouts without progress */

static long asked_blksize = 512, asked_windowsize = 1, timeout_ms = 1000;
static size_t portion, size;
static uint32_t crc;
static const char *name;
static struct sockaddr_in listening = {.sin_family = AF_INET};
static unsigned char *content;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint32_t crc32(const unsigned char *data, size_t length)
{
    uint32_t table[256], sum = 0xFFFFFFFF;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320 : 0);
    }
    for (size_t i = 0; i < length; i++)
        sum = sum >> 8 ^ table[(sum ^ data[i]) & 0xFF];
    return ~sum;
}

/* Build the request, with the options that differ from the defaults; return its length. */
static size_t write_request(unsigned char *packet)
{
    char options[64] = "";
    int length = 0;
    if (asked_blksize != 512)
        length += sprintf(options, "blksize%c%ld%c", 0, asked_blksize, 0);
    if (asked_windowsize != 1)
        length += sprintf(options + length, "windowsize%c%ld%c", 0, asked_windowsize, 0);
    int head = snprintf((char *)packet + 2, MAX_REQUEST - 64, "%s%coctet", name, 0);
    if (head + 3 > MAX_REQUEST - 64)
        fail("the file name is too long");
    packet[0] = 0;
    packet[1] = RRQ;
    memcpy(packet + 2 + head + 1, options, (size_t)length);
    return (size_t)(2 + head + 1 + length);
}

/* Check one value of an OACK: the option must have been requested, and the value must not exceed the request. */
static long granted(const char *option, const char *value, long asked, long unasked)
{
    char *end;
    long number = strtol(value, &end, 10);
    if (asked == unasked || *end || number < 1 || number > asked)
        fail("the server grants %s %s, asked was %ld", option, value, asked);
    return number;
}

static void read_oack(const char *text, const char *end, long *blksize, long *windowsize)
{
    if (text == end || end[-1])
        fail("the OACK does not end with a NUL");
    while (text < end) {
        const char *option = text, *value = text + strlen(text) + 1;
        if (value >= end)
            fail("the OACK has an option without a value");
        text = value + strlen(value) + 1;
        if (!strcasecmp(option, "blksize"))
            *blksize = granted(option, value, asked_blksize, 512);
        else if (!strcasecmp(option, "windowsize"))
            *windowsize = granted(option, value, asked_windowsize, 1);
        else
            fail("the OACK has an option that was not asked for: %s", option);
    }
}

static void fetch(void)
{
    static unsigned char packet[MAX_PACKET], request[MAX_REQUEST];
    size_t request_size = write_request(request), have = 0;
    long blksize = 512, windowsize = 1, block = 0; /* block: the last one received in order, not wrapped */
    long in_window = 0, gap = -1, repeats = 0, patience = PATIENCE;
    int answered = 0, finished = 0;
    double began = seconds(), first = 0, last = 0;
    struct sockaddr_in server;
    socklen_t length = sizeof server;
    struct timeval wait = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    if (sock < 0 || setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait))
        fail("socket: %s", strerror(errno));
    if (sendto(sock, request, request_size, 0, (struct sockaddr *)&listening, sizeof listening) < 0)
        fail("send: %s", strerror(errno));
    while (!finished) {
        int acknowledge = 0;
        ssize_t got = recvfrom(sock, packet, sizeof packet, 0, (struct sockaddr *)&server, &length);
        if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            fail("block %ld: %s", block, strerror(errno));
        if (got < 0) { /* timeout: retransmit the request or the ACK of the last good block */
            repeats++;
            if (--patience < 0)
                fail("no answer after block %ld", block);
            if (answered)
                acknowledge = 1;
            else
                sendto(sock, request, request_size, 0, (struct sockaddr *)&listening, sizeof listening);
        } else if (got < HEADER || packet[0]) {
            fail("a packet that is none, of %zd bytes", got);
        } else if (packet[1] == ERROR) {
            fail("ERROR %d: %.*s", packet[2] << 8 | packet[3], (int)got - HEADER, (char *)packet + HEADER);
        } else if (packet[1] == OACK) {
            if (block)
                continue; /* a delayed duplicate */
            read_oack((char *)packet + 2, (char *)packet + got, &blksize, &windowsize);
            acknowledge = 1;
        } else if (packet[1] != DATA) {
            fail("a packet with opcode %d", packet[1]);
        } else if ((packet[2] << 8 | packet[3]) == ((block + 1) & 0xFFFF)) {
            size_t data = (size_t)got - HEADER;
            if (data > (size_t)blksize || have + data > size)
                fail("block %ld of %zu bytes is too much", block + 1, data);
            memcpy(content + have, packet + HEADER, data);
            if (portion && have < portion && have + data >= portion)
                first = seconds() - began;
            if (portion && have < size - portion && have + data >= size - portion)
                last = seconds();
            have += data;
            block++;
            gap = -1;
            patience = PATIENCE;
            finished = data < (size_t)blksize;
            acknowledge = finished || ++in_window >= windowsize;
        } else if (gap < 0 || gap == (packet[2] << 8 | packet[3])) {
            gap = packet[2] << 8 | packet[3]; /* ACK once each time that the server has gone back or run ahead */
            acknowledge = 1;
        }
        if (!answered && got >= 0) { /* the port of the first answer is the server's TID */
            answered = 1;
            if (connect(sock, (struct sockaddr *)&server, sizeof server))
                fail("connect: %s", strerror(errno));
        }
        if (acknowledge) {
            unsigned char ack[HEADER] = {0, ACK, (unsigned char)(block >> 8), (unsigned char)block};
            in_window = 0;
            if (send(sock, ack, sizeof ack, 0) < 0 && errno != ECONNREFUSED)
                fail("send: %s", strerror(errno));
        }
    }
    double ended = seconds();
    close(sock);
    if (have != size)
        fail("%zu bytes came instead of %zu", have, size);
    if (crc32(content, size) != crc)
        fail("the content is not that of the file");
    printf("%.6f %.6f %.6f %.6f ", began, ended - began, first, portion ? ended - last : 0);
    printf("%ld %ld %ld\n", blksize, windowsize, repeats);
    fflush(stdout);
}

int main(int count, char **words)
{
    long fetches = 1;
    for (int option; (option = getopt(count, words, "b:w:n:t:p:")) != -1;) {
        long value = option == '?' ? 0 : atol(optarg);
        if (value < 1)
            fail("options: -b blksize -w windowsize -n fetches -t milliseconds -p portion, each a number above 0");
        switch (option) {
        case 'b': asked_blksize = value; break;
        case 'w': asked_windowsize = value; break;
        case 'n': fetches = value; break;
        case 't': timeout_ms = value; break;
        default: portion = (size_t)value;
        }
    }
    if (count - optind != 4)
        fail("PORT NAME SIZE CRC32 are expected");
    listening.sin_port = htons((uint16_t)atoi(words[optind]));
    listening.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    name = words[optind + 1];
    size = strtoul(words[optind + 2], NULL, 10);
    crc = (uint32_t)strtoul(words[optind + 3], NULL, 16);
    if (portion > size || !(content = malloc(size + 1)))
        fail("SIZE is too large, or smaller than the portion");
    memset(content, 0, size + 1); /* touch its pages before the clock starts */
    while (fetches--)
        fetch();
    return 0;
}
