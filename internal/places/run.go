package places

import (
	"context"
	"path/filepath"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

// lookEvery is how often pods without a place are looked for, and the namespaces of the others are looked at.
const lookEvery = 2 * time.Second

// Scanned is closed when all pods that ran at the start were looked for once. Before, a pod without a place may be one
// that runs.
func (p *Places) Scanned() <-chan struct{} { return p.scanned }

// Run looks for pods, and forgets those that are gone, until ctx ends.
func (p *Places) Run(ctx context.Context) error {
	feed := p.cfg.Objects.DB.Feed()
	defer feed.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-p.cfg.Loaded:
	}
	_, snap := feed.Take()
	p.look(snap)
	close(p.scanned)
	ours := state.Key{Table: p.cfg.Objects.Pods.ID(), Index: kube.ByNode, Value: p.cfg.Node}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
			keys, snap := feed.Take()
			if _, ok := keys[ours]; ok {
				p.settle(p.cfg.Objects.NodePods(snap, p.cfg.Node))
			}
		case <-tick.C:
			p.look(p.cfg.Objects.DB.Snapshot())
		}
	}
}

// look drops places whose namespace is gone, and looks for pods that have none.
func (p *Places) look(snap *state.Snapshot) {
	pods := p.cfg.Objects.NodePods(snap, p.cfg.Node)
	p.settle(pods)
	missing := p.missing(pods)
	if len(missing) == 0 {
		return
	}
	found, err := p.cfg.Scanner.Find(missing)
	p.take(pods, found, err)
}

// settle brings places in line with the pods that there are.
func (p *Places) settle(pods []kube.NodePod) {
	there := make(map[string]bool, len(pods))
	for _, pod := range pods {
		there[pod.UID] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid, e := range p.places {
		e.known = e.known || there[uid]
		if e.known && !there[uid] || !p.there(e) {
			p.forget(e)
		}
	}
	for uid := range p.gone {
		if !there[uid] {
			delete(p.gone, uid)
		}
	}
	for uid := range p.told {
		if uid != "" && !there[uid] {
			delete(p.told, uid)
		}
	}
	if p.changed {
		p.save()
	}
}

// missing gives the UIDs of pods without a place.
func (p *Places) missing(pods []kube.NodePod) map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]bool{}
	for _, pod := range pods {
		if p.places[pod.UID] == nil {
			out[pod.UID] = true
		}
	}
	return out
}

// take places the pods that were found.
func (p *Places) take(pods []kube.NodePod, found map[string]Found, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.tellLog("", "pods that started without the CNI plugin cannot be found", "error", err)
	}
	for _, pod := range pods {
		f, ok := found[pod.UID]
		if !ok || p.places[pod.UID] != nil {
			continue
		}
		if f.NetNS == "" {
			p.tellLog(pod.UID, "a pod is not in the mesh: its network namespace has no name",
				"pod", pod.Namespace+"/"+pod.Name, "folder", p.cfg.Scanner.NetNSDir)
			continue
		}
		e := &place{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, NetNS: f.NetNS, Cgroup: f.Cgroup, known: true}
		ns, err := inodeOf(filepath.Join(p.cfg.Scanner.NetNSDir, f.NetNS))
		if err != nil || p.gone[pod.UID] == ns {
			continue
		}
		e.Device, e.Inode = ns.dev, ns.ino
		p.places[pod.UID] = e
		p.changed = true
		p.tell(e)
		p.cfg.Log.Info("found a pod that runs", "pod", pod.Namespace+"/"+pod.Name, "netns", f.NetNS)
	}
	if p.changed {
		p.save()
	}
}
