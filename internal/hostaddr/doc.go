// Package hostaddr follows the addresses of the host's links, and brings what is sent to the addresses of Gateways to this
// host. It works by rtnetlink, in the network namespace of the goroutine that calls it.
//
//	announcer.go   several nodes: addresses on links, for which the kernel answers ARP and NDP
//	gratuitous.go  frames that tell neighbours of an address that moved
//	local.go       one node: local routes
//	watch.go       the table HostAddresses, from the kernel's notifications
//	netlink.go     the kernel's messages
package hostaddr

import "errors"

// Remove removes everything that Announcer and LocalRoutes left on the host.
func Remove() error { return errors.Join(removeAddresses(), removeLinkAddresses()) }
