// Package datapath is the node in the kernel.
package datapath
