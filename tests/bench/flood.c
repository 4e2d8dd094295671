/* Sends packets over a cable between namespaces of one's own, for the benchmark of the network sensor.
 *
 *   flood INTERFACE MAC ADDRESS syn|udp|arp one|random RATE SECONDS
 *
 * arp: requests for the addresses of a /16, from one host or from invented ones.
 * RATE in packets/s, 0 for as many as go. Prints: packets, seconds, own processor seconds, begin (seconds since 1970). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/if_ether.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, FRAME = 60 };

struct frame {
	struct ether_header ethernet;
	struct iphdr ip;
	union {
		struct tcphdr tcp;
		struct udphdr udp;
	} above;
	uint8_t padding[8];
} __attribute__((packed));

static double seconds(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint32_t next_random(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15ull;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 20);
}

static uint16_t checksum(const void *data, size_t bytes, uint32_t sum)
{
	const uint8_t *at = data;

	for (size_t place = 0; place + 1 < bytes; place += 2)
		sum += (uint32_t)at[place] << 8 | at[place + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

static void fill(struct frame *frame, int is_tcp, int is_random, uint32_t destination)
{
	size_t above = is_tcp ? sizeof(struct tcphdr) : sizeof(struct udphdr) + 18;
	uint32_t sum;

	memset(&frame->ip, 0, sizeof(*frame) - sizeof(frame->ethernet));
	frame->ip.version = 4;
	frame->ip.ihl = 5;
	frame->ip.ttl = 64;
	frame->ip.tot_len = htons((uint16_t)(sizeof(struct iphdr) + above));
	frame->ip.protocol = is_tcp ? IPPROTO_TCP : IPPROTO_UDP;
	frame->ip.saddr = htonl(0xc6120000u | (is_random ? next_random() & 0x1ffff : 1));
	frame->ip.daddr = destination;
	frame->ip.check = checksum(&frame->ip, sizeof(frame->ip), 0);
	sum = (uint32_t)frame->ip.protocol + (uint32_t)above;
	for (int place = 12; place < 20; place += 2)
		sum += (uint32_t)((uint8_t *)&frame->ip)[place] << 8 | ((uint8_t *)&frame->ip)[place + 1];
	if (is_tcp) {
		frame->above.tcp.source = htons((uint16_t)(1024 + next_random() % 60000));
		frame->above.tcp.dest = htons(80);
		frame->above.tcp.seq = next_random();
		frame->above.tcp.doff = 5;
		frame->above.tcp.syn = 1;
		frame->above.tcp.window = 0xffff;
		frame->above.tcp.check = checksum(&frame->above, above, sum);
	} else {
		frame->above.udp.source = htons((uint16_t)(1024 + next_random() % 60000));
		frame->above.udp.dest = htons(4000);
		frame->above.udp.len = htons((uint16_t)above);
	}
}

static void fill_arp(struct frame *frame, int is_random)
{
	struct ether_arp arp = { 0 };
	uint32_t sender = htonl(0x0ac70000u | (is_random ? next_random() & 0xffff : 1));
	uint32_t target = htonl(0x0ac70000u | (next_random() & 0xffff));
	uint32_t card = is_random ? next_random() : 1;

	arp.arp_hrd = htons(ARPHRD_ETHER);
	arp.arp_pro = htons(ETH_P_IP);
	arp.arp_hln = 6;
	arp.arp_pln = 4;
	arp.arp_op = htons(ARPOP_REQUEST);
	memcpy(arp.arp_sha, "\2", 1);
	memcpy(arp.arp_sha + 2, &card, 4);
	memcpy(arp.arp_spa, &sender, 4);
	memcpy(arp.arp_tpa, &target, 4);
	memcpy(frame->ethernet.ether_shost, arp.arp_sha, 6);
	frame->ethernet.ether_type = htons(ETH_P_ARP);
	memset(&frame->ip, 0, sizeof(*frame) - sizeof(frame->ethernet));
	memcpy(&frame->ip, &arp, sizeof(arp));
}

int main(int count, char **words)
{
	static struct frame frames[BATCH];
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = 6 };
	struct mmsghdr messages[BATCH] = { 0 };
	struct iovec parts[BATCH];
	struct rusage used;
	double begin, started, elapsed, rate, length;
	uint64_t sent = 0;
	unsigned mac[6];
	int one = 1, fd;

	if (count != 8 || sscanf(words[2], "%x:%x:%x:%x:%x:%x", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6) {
		fprintf(stderr, "usage: flood INTERFACE MAC ADDRESS syn|udp|arp one|random RATE SECONDS\n");
		return 2;
	}
	rate = atof(words[6]);
	length = atof(words[7]);
	address.sll_ifindex = (int)if_nametoindex(words[1]);
	for (int place = 0; place < 6; place++)
		address.sll_addr[place] = (unsigned char)mac[place];
	fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)) != 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
		perror("flood");
		return 1;
	}
	for (int place = 0; place < BATCH; place++) {
		memcpy(frames[place].ethernet.ether_dhost, address.sll_addr, 6);
		memcpy(frames[place].ethernet.ether_shost, "\2\0\0\0\0\1", 6);
		frames[place].ethernet.ether_type = htons(ETH_P_IP);
		parts[place] = (struct iovec){ &frames[place], FRAME };
		messages[place].msg_hdr.msg_iov = &parts[place];
		messages[place].msg_hdr.msg_iovlen = 1;
	}
	begin = seconds(CLOCK_REALTIME);
	started = seconds(CLOCK_MONOTONIC);
	while ((elapsed = seconds(CLOCK_MONOTONIC) - started) < length) {
		double due = rate > 0 ? elapsed * rate - (double)sent : BATCH;
		int batch = due < BATCH ? (int)due : BATCH, done;

		if (batch < 1) {
			nanosleep(&(struct timespec){ 0, 100000 }, 0);
			continue;
		}
		for (int place = 0; place < batch; place++) {
			if (words[4][0] == 'a')
				fill_arp(&frames[place], words[5][0] == 'r');
			else
				fill(&frames[place], words[4][0] == 's', words[5][0] == 'r', inet_addr(words[3]));
		}
		done = sendmmsg(fd, messages, (unsigned)batch, 0);
		if (done > 0)
			sent += (uint64_t)done;
		else if (errno != ENOBUFS && errno != EAGAIN) {
			perror("sendmmsg");
			return 1;
		}
	}
	getrusage(RUSAGE_SELF, &used);
	printf("%llu %.3f %.3f %.6f\n", (unsigned long long)sent, elapsed,
	       (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
		       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
	       begin);
	return 0;
}
