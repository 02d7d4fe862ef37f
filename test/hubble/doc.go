// Package hubble pins Hubble's own command, by which the flows API is tested. It is a module of its own: the command needs
// more than Weft does.
package hubble
