#include "proto/endpoint.h"

#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    MAX_PATH = 107, /* sizeof(sun_path) - 1 */
    MAX_PORT = 65535,
    DIAL_MS = 500, /* for somebody to take a connection */
};

static const char ipc[] = "ipc://", tcp[] = "tcp://";
enum { SCHEME = sizeof(ipc) - 1 };

bool caloris_endpoint_needs_keys(const char *endpoint)
{
    return strncmp(endpoint, tcp, SCHEME) == 0;
}

static int check_path(const char *endpoint, struct caloris_err *err)
{
    const char *path = endpoint + SCHEME, *slash = strrchr(path, '/');
    size_t length = strlen(path);
    /* Not absolute: abstract names ("ipc://@x"), open to everybody on this host, and wildcards. */
    if (path[0] != '/' || slash[1] == '\0')
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%.120s: the socket needs an absolute path",
                               endpoint);
    if (length > MAX_PATH)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "ipc://%.120s…: a path of %zu bytes; a socket's may have %d bytes, "
                               "choose a shorter directory",
                               path, length, MAX_PATH);
    char dir[MAX_PATH + 1];
    size_t n = slash == path ? 1 : (size_t)(slash - path);
    memcpy(dir, path, n);
    dir[n] = '\0';
    if (caloris_file_check_private(dir, err) < 0)
        return caloris_err_prefix(err, "%.120s", endpoint);
    return 0;
}

/* "host:port" behind tcp://; NULL when it is not that. */
static const char *find_port(const char *address)
{
    static const char in_host[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    const char *port;
    if (address[0] == '[') {
        size_t n = 1 + strspn(address + 1, "0123456789abcdefABCDEF:.");
        if (address[n] != ']' || n < 3)
            return NULL;
        port = address + n + 1;
    } else {
        size_t n = address[0] == '*' ? 1 : strspn(address, in_host);
        port = n > 0 ? address + n : NULL;
    }
    return port && *port == ':' ? port + 1 : NULL;
}

static int check_address(const char *endpoint, struct caloris_err *err)
{
    const char *port = find_port(endpoint + SCHEME);
    size_t digits = port ? strspn(port, "0123456789") : 0;
    bool any = port && strcmp(port, "*") == 0;
    bool number = digits > 0 && digits <= 5 && port[digits] == '\0' && atoi(port) > 0 &&
                  atoi(port) <= MAX_PORT;
    if (any || number)
        return 0;
    return caloris_err_set(err, CALORIS_BAD_CONFIG,
                           "%.120s: tcp:// is followed by a host, : and a port of 1 to %d",
                           endpoint, MAX_PORT);
}

int caloris_endpoint_check(const char *endpoint, struct caloris_err *err)
{
    bool is_tcp = strncmp(endpoint, tcp, SCHEME) == 0;
    if (!is_tcp && strncmp(endpoint, ipc, SCHEME) != 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%.120s: neither ipc:// nor tcp://",
                               endpoint);
    if (is_tcp && strlen(endpoint) >= CALORIS_ENDPOINT_MAX)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%.120s…: %zu bytes; the limit is %d",
                               endpoint, strlen(endpoint), CALORIS_ENDPOINT_MAX - 1);
    return is_tcp ? check_address(endpoint, err) : check_path(endpoint, err);
}

/* ---- who is there ---------------------------------------------------------------------------- */

static bool path_in_use(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strnlen(path, sizeof(address.sun_path) - 1));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    /* A full backlog (EAGAIN) is somebody too. */
    bool used =
        connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 || errno == EAGAIN;
    close(fd);
    return used;
}

static bool takes_connections(const struct addrinfo *at)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), why = 0;
    socklen_t size = sizeof(why);
    if (fd < 0)
        return false;
    bool taken = connect(fd, at->ai_addr, at->ai_addrlen) == 0;
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    if (!taken && errno == EINPROGRESS && poll(&ready, 1, DIAL_MS) == 1)
        taken = getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &size) == 0 && why == 0;
    close(fd);
    return taken;
}

static bool address_in_use(const char *address)
{
    char host[CALORIS_ENDPOINT_MAX];
    const char *port = find_port(address);
    const struct addrinfo wanted = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    if (!port)
        return false;
    bool brackets = address[0] == '[';
    snprintf(host, sizeof(host), "%.*s", (int)(port - 1 - address) - 2 * brackets,
             address + brackets);
    if (getaddrinfo(host, port, &wanted, &found) != 0)
        return false;
    bool used = false;
    for (const struct addrinfo *at = found; at && !used; at = at->ai_next)
        used = takes_connections(at);
    freeaddrinfo(found);
    return used;
}

bool caloris_endpoint_in_use(const char *endpoint)
{
    const char *rest = endpoint + SCHEME;
    return caloris_endpoint_needs_keys(endpoint) ? address_in_use(rest) : path_in_use(rest);
}

int caloris_endpoint_publish(const char *bound, char endpoint[CALORIS_ENDPOINT_MAX],
                             struct caloris_err *err)
{
    static const char *const anywhere[] = {"tcp://*:", "tcp://0.0.0.0:", "tcp://[::]:"};
    char host[CALORIS_ENDPOINT_MAX];
    int n = -1;
    for (size_t i = 0; i < sizeof(anywhere) / sizeof(anywhere[0]) && n < 0; i++) {
        size_t length = strlen(anywhere[i]);
        if (strncmp(bound, anywhere[i], length) != 0)
            continue;
        if (gethostname(host, sizeof(host) - 1) < 0)
            return caloris_err_sys(err, "the name of this host");
        host[sizeof(host) - 1] = '\0';
        n = snprintf(endpoint, CALORIS_ENDPOINT_MAX, "tcp://%s:%s", host, bound + length);
    }
    if (n < 0)
        n = snprintf(endpoint, CALORIS_ENDPOINT_MAX, "%s", bound);
    if (n < 0 || n >= CALORIS_ENDPOINT_MAX)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%.120s…: too long", bound);
    return 0;
}
