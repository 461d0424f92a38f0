/* Preloaded into Slurm's programs: nothing waits before it is sent, and nothing listens beyond loopback.
 *
 * Slurm writes the length of a message and the message in two steps. With Nagle's algorithm on one side and delayed
 * acknowledgements on the other that costs 40 ms each way, even on loopback, and slurmdbd is asked many times over.
 *
 * slurmdbd binds to all addresses, and has no option to do otherwise.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

static void at_once(int fd)
{
	int on = 1;

	/* Fails on what is not TCP; that is fine. */
	if (fd >= 0)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	static int (*next)(int, const struct sockaddr *, socklen_t);
	struct sockaddr_in loopback;

	if (!next)
		next = dlsym(RTLD_NEXT, "bind");
	if (address && address->sa_family == AF_INET && length >= sizeof(loopback)) {
		memcpy(&loopback, address, sizeof(loopback));
		if (loopback.sin_addr.s_addr == htonl(INADDR_ANY)) {
			loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
			return next(fd, (struct sockaddr *)&loopback, sizeof(loopback));
		}
	}
	return next(fd, address, length);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
	static int (*next)(int, const struct sockaddr *, socklen_t);

	if (!next)
		next = dlsym(RTLD_NEXT, "connect");
	if (address && (address->sa_family == AF_INET || address->sa_family == AF_INET6))
		at_once(fd);
	return next(fd, address, length);
}

int accept(int fd, struct sockaddr *address, socklen_t *length)
{
	static int (*next)(int, struct sockaddr *, socklen_t *);
	int accepted;

	if (!next)
		next = dlsym(RTLD_NEXT, "accept");
	accepted = next(fd, address, length);
	at_once(accepted);
	return accepted;
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	static int (*next)(int, struct sockaddr *, socklen_t *, int);
	int accepted;

	if (!next)
		next = dlsym(RTLD_NEXT, "accept4");
	accepted = next(fd, address, length, flags);
	at_once(accepted);
	return accepted;
}
