package xds

import "strings"

// namespaceBits tell namespaces of one name apart.
const namespaceBits = 12

// netns returns a path to a workload's network namespace that is spelled differently for each namespace that the name
// ever leads to. Envoy takes a listener whose address and path are the same for the same one and keeps its sockets, in a
// namespace that is gone; and it would use pooled connections from there. Slashes and dots between directory and name
// change nothing for the kernel: the number of the namespace is written in them. The path is as it was given if no row of a
// placement says which namespace is there.
//
// It reports false if there is none: the next one at the path may be another workload's, and Envoy would listen there with
// this one's identity.
func (b *builder) netns(given string) (string, bool) {
	inode, placed := b.st.NetNSInode(b.snap, given)
	switch {
	case !placed || given == "":
		return given, true
	case inode == 0:
		return "", false
	}
	i := strings.LastIndexByte(given, '/') + 1
	var out strings.Builder
	out.WriteString(given[:i])
	for bit := range namespaceBits {
		if inode>>bit&1 == 1 {
			out.WriteByte('.')
		}
		out.WriteByte('/')
	}
	out.WriteString(given[i:])
	return out.String(), true
}
