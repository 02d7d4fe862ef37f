package announce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	clientv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Config of an Elector.
type Config struct {
	Kube      *rest.Config
	Namespace string // of the Leases; "" is weft-system
	Node      string
	// Ready reports whether this node can serve what comes to a Gateway's address. It must be quick.
	Ready func() bool
	// Serves reports whether a node may serve Gateways; nil for all. What the Leases of others say of addresses does not count.
	// It must not depend on what the node says of itself, and be quick. Until it is known, at st.Synced() at the latest, this node
	// decides nothing, and the addresses stay where they are.
	Serves func(node string) (may, known bool)
	// Accepts returns the transports that this node takes, sorted; nil while that is not known. It must be quick.
	Accepts func() []model.Transport
	// Times are DefaultTimes if zero.
	Times Times
	Log   *slog.Logger
}

// Times of the election. Renew + Gap must be less than Lasts (see members).
type Times struct {
	Renew   time.Duration // between two renewals of the Lease
	Lasts   time.Duration // of a Lease without renewal: then others take over; whole seconds
	Gap     time.Duration // between two of our own renewals seen, past which nothing is decided
	Unready time.Duration // that a node may be not ready before others take over: an Envoy that restarts takes less
}

// DefaultTimes make another node take over 6 to 7 s after one died.
var DefaultTimes = Times{Renew: 2 * time.Second, Lasts: 6 * time.Second, Gap: 3500 * time.Millisecond, Unready: 3 * time.Second}

const (
	defaultNamespace = "weft-system"
	look             = 500 * time.Millisecond // between two calls of Config.Ready
)

// Elector is a node's part in the election.
type Elector struct {
	cfg     Config
	st      *state.State
	events  chan event
	changed chan struct{} // the Lease is to say something new
	listed  chan struct{} // closed when all Leases were seen once

	mu     sync.Mutex
	wanted Candidate // what the Lease is to say
	errs   map[string]error
	owners map[netip.Addr]string // nodes whose own addresses Gateways have
	// withdrawn is not nil once the Lease is to say no transports any more, and closed when it does.
	withdrawn chan struct{}
}

// New makes an Elector that reads st.Gateways and st.HostAddresses and writes st.Announcements, st.Nodes and st.NodeAddresses. Nothing is asked of the API
// server yet.
func New(st *state.State, cfg Config) *Elector {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Namespace == "" {
		cfg.Namespace = defaultNamespace
	}
	if cfg.Times == (Times{}) {
		cfg.Times = DefaultTimes
	}
	return &Elector{
		cfg: cfg, st: st, events: make(chan event, 16), changed: make(chan struct{}, 1), listed: make(chan struct{}),
		wanted: Candidate{Node: cfg.Node}, errs: map[string]error{},
	}
}

// Run takes part until the context ends. The Lease and the table stay as they are.
func (e *Elector) Run(ctx context.Context) error {
	watching, err := e.client(0)
	if err != nil {
		return err
	}
	renewing, err := e.client(e.cfg.Times.Renew)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.watch(ctx, watching) })
	g.Go(func() error { return e.renew(ctx, renewing) })
	g.Go(func() error { return e.run(ctx) })
	return g.Wait()
}

// client gives one whose requests end after a time, or if that is 0, never.
func (e *Elector) client(timeout time.Duration) (clientv1.LeaseInterface, error) {
	cfg := rest.CopyConfig(e.cfg.Kube)
	cfg.Timeout, cfg.QPS = timeout, -1
	cfg.ContentType = runtime.ContentTypeProtobuf
	c, err := clientv1.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for Leases: %w", err)
	}
	return c.Leases(e.cfg.Namespace), nil
}

// run is the loop that all decisions are made in.
func (e *Elector) run(ctx context.Context) error {
	feed := e.st.Feed(e.st.Gateways, e.st.HostAddresses)
	defer feed.Close()
	tick := time.NewTicker(look)
	defer tick.Stop()
	_, snap := feed.Take()
	d := &decider{
		members: newMembers(e.cfg.Node, e.cfg.Times.Gap, e.cfg.Serves),
		self:    Candidate{Node: e.cfg.Node, Claims: map[netip.Addr]uint64{}, Links: links(e.st, snap), Addresses: ownAddresses(e.st, snap)},
	}
	ready := time.Now()
	synced := e.st.Synced()
	for {
		due := true
		select {
		case <-ctx.Done():
			return nil
		case <-synced:
			synced = nil
		case ev := <-e.events:
			due = e.take(d, ev)
		case <-feed.Ready():
			keys, snap := feed.Take()
			_, due = keys[e.st.Gateways.AnyKey()]
			if _, ok := keys[e.st.HostAddresses.AnyKey()]; ok {
				d.self.Links, d.self.Addresses, due = links(e.st, snap), ownAddresses(e.st, snap), true
			}
		case now := <-tick.C:
			if accepts := e.cfg.Accepts(); accepts != nil {
				d.self.Accepts = accepts
			}
			if e.cfg.Ready() {
				d.self.Ready, ready = true, now
			} else if now.Sub(ready) > e.cfg.Times.Unready {
				d.self.Ready = false
			}
		}
		if due {
			e.act(d)
		}
	}
}

// links lists the node's own addresses on links with neighbours, with the prefixes that are on link by them.
func links(st *state.State, snap *state.Snapshot) []netip.Prefix {
	var out []netip.Prefix
	for a := range st.HostAddresses.All(snap) {
		if a.Neighbours && !a.Announced && a.Prefix.Addr().IsGlobalUnicast() {
			out = append(out, a.Prefix)
		}
	}
	return out
}

// ownAddresses lists the node's addresses on all links, those of tunnels to other nodes' pods too, the link that was made first first: of
// IPVS, the kernel has one for each Service.
func ownAddresses(st *state.State, snap *state.Snapshot) []netip.Addr {
	own := slices.SortedFunc(st.HostAddresses.All(snap), func(a, b *model.HostAddress) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	var out []netip.Addr
	for _, h := range own {
		if a := h.Prefix.Addr().Unmap(); !h.Announced && model.IsRoutable(a) && !slices.Contains(out, a) && len(out) < model.MaxNodeAddresses {
			out = append(out, a)
		}
	}
	return out
}

// take takes in what the watch shows, and reports whether it is new.
func (e *Elector) take(d *decider, ev event) (due bool) {
	now := time.Now()
	there := map[string]bool{}
	for _, l := range ev.leases {
		m, ok := decode(l)
		if !ok {
			continue
		}
		there[m.Node] = true
		e.note(m, ev.gone)
		if ev.gone {
			d.members.gone(m.Node)
			due = true
		} else if d.members.saw(m, now) {
			due = true
		}
	}
	if !ev.complete {
		return due
	}
	d.members.keep(there)
	e.forgetNodes(there)
	select {
	case <-e.listed:
	default:
		// What this node's last agent answered for, this one goes on answering for.
		if own := d.members.by[e.cfg.Node]; own != nil {
			d.self.Ready, d.self.Claims, d.self.Accepts = own.Ready, maps.Clone(own.Claims), own.Accepts
		}
		e.want(d.self)
		close(e.listed)
	}
	return true
}

// act decides, and makes the decisions known.
func (e *Elector) act(d *decider) {
	select {
	case <-e.listed:
	default:
		return
	}
	addrs := addresses(e.st)
	synced := false
	select {
	case <-e.st.Synced():
		synced = true
		d.forget(addrs)
	default:
	}
	decisions, _ := d.decide(addrs, time.Now())
	e.want(d.self)
	e.publish(decisions, addrs, synced)
}

// want lets the Lease say what it does not say yet.
func (e *Elector) want(c Candidate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := &e.wanted
	if e.withdrawn != nil {
		c.Accepts = nil
	}
	if w.Ready == c.Ready && maps.Equal(w.Claims, c.Claims) && slices.Equal(w.Links, c.Links) && slices.Equal(w.Accepts, c.Accepts) &&
		slices.Equal(w.Addresses, c.Addresses) {
		return
	}
	*w = Candidate{Node: c.Node, Ready: c.Ready, Claims: maps.Clone(c.Claims), Links: c.Links, Accepts: c.Accepts, Addresses: c.Addresses}
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// publish writes the decisions into the table.
func (e *Elector) publish(decisions map[netip.Addr]decision, addrs []netip.Addr, synced bool) {
	w := e.st.Write(e.st.Announcements)
	defer w.Commit()
	owners := map[netip.Addr]string{}
	for addr, dec := range decisions {
		if dec.owner != "" {
			owners[addr] = dec.owner
			e.st.Announcements.Delete(w, addr.String())
		} else if dec.announcement != nil {
			e.st.Announcements.Put(w, dec.announcement)
		}
	}
	for old := range e.st.Announcements.All(w.Snapshot()) {
		if synced && !contains(addrs, old.Address) {
			e.st.Announcements.Delete(w, old.Key())
		}
	}
	e.setOwners(owners, decisions != nil)
}

// addresses lists the Gateways' addresses that are to be announced.
func addresses(st *state.State) []netip.Addr {
	var out []netip.Addr
	for g := range st.Gateways.All(st.Snapshot()) {
		out = append(out, g.Addresses...)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// contains looks into what addresses gives.
func contains(sorted []netip.Addr, a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(sorted, a, netip.Addr.Compare)
	return ok
}

func (e *Elector) setOwners(owners map[netip.Addr]string, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !known {
		return
	}
	for addr, node := range owners {
		if e.owners[addr] != node {
			e.cfg.Log.Error("a Gateway has an address that is a node's own; it is not announced: take it out of the AddressPool",
				"address", addr, "node", node)
		}
	}
	e.owners = owners
}

// setError notes why a part of the work fails, and logs when it begins and ends to.
func (e *Elector) setError(part string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.errs[part]
	e.errs[part] = err
	switch {
	case err == nil && old != nil:
		e.cfg.Log.Info("announcing works again", "part", part)
	case err != nil && old == nil:
		e.cfg.Log.Warn("announcing: who has an address keeps it until this works again", "part", part, "error", err)
	}
}

// Errors says why the election does not work, and which addresses nobody may announce.
func (e *Elector) Errors() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, part := range slices.Sorted(maps.Keys(e.errs)) {
		if err := e.errs[part]; err != nil {
			out = append(out, err.Error())
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(e.owners), netip.Addr.Compare) {
		out = append(out, fmt.Sprintf("%s is node %s's own address and is not announced: take it out of the AddressPool", addr, e.owners[addr]))
	}
	return out
}
