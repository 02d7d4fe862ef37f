package xds

import (
	"os"
	"strings"
	"syscall"

	"github.com/weft-mesh/weft/internal/state"
)

// namespaceBits tell namespaces of one name apart.
const namespaceBits = 12

// netns returns a path to a workload's network namespace that is spelled differently for each namespace that the name
// ever leads to. Envoy takes a listener whose address and path are the same for the same one and keeps its sockets, in a
// namespace that is gone; and it would use pooled connections from there. Slashes and dots between directory and name
// change nothing for the kernel: the number of the namespace is written in them. The path is as it was given if it
// leads nowhere. What is built is built again when the row of a placement there changes.
func (b *builder) netns(given string) string {
	if given == "" {
		return ""
	}
	_ = b.st.Placements.By(b.snap, state.ByNetNS, given)
	info, err := os.Stat(given)
	if err != nil {
		return given
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return given
	}
	i := strings.LastIndexByte(given, '/') + 1
	var out strings.Builder
	out.WriteString(given[:i])
	for bit := range namespaceBits {
		if s.Ino>>bit&1 == 1 {
			out.WriteByte('.')
		}
		out.WriteByte('/')
	}
	out.WriteString(given[i:])
	return out.String()
}
