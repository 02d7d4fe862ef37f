package agent

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// namespacesPoll is how often the namespaces of local workloads are looked at: one goes, or another comes under its
// name, without a word.
const namespacesPoll = time.Second

// watchNamespaces keeps the table of namespaces, so that what is built for one is built again for the next.
func watchNamespaces(ctx context.Context, st *state.State) error {
	tick := time.NewTicker(namespacesPoll)
	defer tick.Stop()
	for {
		lookAtNamespaces(st)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func lookAtNamespaces(st *state.State) {
	w := st.Write(st.Namespaces)
	defer w.Commit()
	snap := st.Snapshot()
	there := map[string]bool{}
	for l := range st.Workloads.By(snap, state.ByLocal, "true") {
		info, err := os.Stat(l.NetNS)
		if err != nil {
			continue
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			there[l.NetNS] = true
			st.Namespaces.Put(w, &model.Namespace{Path: l.NetNS, Inode: s.Ino})
		}
	}
	for n := range st.Namespaces.All(snap) {
		if !there[n.Path] {
			st.Namespaces.Delete(w, n.Path)
		}
	}
}
