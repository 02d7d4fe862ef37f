// Package sockdiag lists sockets of the calling thread's network namespace, and ends them (sock_diag(7), linux/inet_diag.h).
package sockdiag
