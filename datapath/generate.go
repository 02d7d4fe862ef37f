package datapath

// The object is for little endian machines: amd64, arm64. It needs clang 19 and the headers of libbpf and Linux
// (Debian: clang-19 libbpf-dev linux-libc-dev); the output is committed, so only those who change the C need them.
//
//go:generate sh -c "go run ./bpf/gen > bpf/ports.h"
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package datapath -output-stem bpf -type frontend_key -type frontend -type slot_key -type endpoint -type member_key -type address -type path -type own_key -type self_key -type probe -type probe_request -type probe_flow -type event -type tuple -type flow -type listener_key -type datagram -type exchange_key -type exchange -type dns_message -type closing weft bpf/weft.c -- -O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
