package analyze

import (
	"io"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const trustDomain = "cluster.local"

// nodeAddress stands for the node on which Gateways would listen that have no other address (RFC 5737).
var nodeAddress = netip.MustParseAddr("192.0.2.254")

// Mesh is what manifests come to.
type Mesh struct {
	objs  *kube.Objects
	st    *state.State
	files *manifests.Files
}

// Read reads files and folders, and in as "-", once. It fails if one of them cannot be read at all; what is wrong inside
// of them is a Finding.
func Read(paths []string, in io.Reader) (*Mesh, error) { return ReadBeside(Cluster{}, paths, in) }

// Cluster is what of a cluster is read beside files. Of an object that both have the file's counts.
type Cluster struct {
	Documents [][]byte
	// Referenced returns the ConfigMaps and the Secrets with these keys as documents. They are those that the objects refer to and that
	// the files do not have, there or not, sorted. It is called once. Nil is none.
	Referenced func(configMaps, secrets []string) ([][]byte, error)
}

// ReadBeside is as Read, with what is in a cluster.
func ReadBeside(c Cluster, paths []string, in io.Reader) (*Mesh, error) {
	db := state.NewDB()
	m := &Mesh{objs: kube.NewObjects(db), st: state.New(db)}
	beside := manifests.Cluster{Documents: c.Documents}
	if c.Referenced != nil {
		beside.More = func() ([][]byte, error) { return c.Referenced(references(m.objs)) }
	}
	files, err := manifests.ReadBeside(m.objs, beside, paths, in)
	if err != nil {
		return nil, err
	}
	m.files = files
	log := slog.New(slog.DiscardHandler)
	gateway.New(m.objs, m.st, gateway.Config{TrustDomain: trustDomain, NodeAddresses: []netip.Addr{nodeAddress}}, log).Sync()
	return m, nil
}

// references returns the keys of the ConfigMaps and of the Secrets that objects refer to and that are not among them, sorted. It leaves
// out those that cannot be there: an API server takes references with any name, and answers a question for such an object with an error.
func references(objs *kube.Objects) (configMaps, secrets []string) {
	snap := objs.DB.Snapshot()
	configMaps, _ = gateway.UsedConfigMaps(objs, gateway.ControllerName, snap)
	for gw := range objs.Gateways.All(snap) {
		secrets = append(secrets, kube.GatewaySecrets(gw)...)
	}
	for s := range objs.ListenerSets.All(snap) {
		secrets = append(secrets, kube.ListenerSetSecrets(s)...)
	}
	slices.Sort(secrets)
	configMaps = slices.DeleteFunc(configMaps, func(key string) bool {
		_, there := objs.ConfigMaps.Get(snap, key)
		return there || impossible(key)
	})
	return configMaps, slices.DeleteFunc(slices.Compact(secrets), func(key string) bool {
		_, there := objs.Secrets.Get(snap, key)
		return there || impossible(key)
	})
}

func impossible(key string) bool { return !kube.PossibleKey(key) }

// Model is what is handed to the node's planes.
type Model struct {
	RouteTables  []*model.RouteTable  `json:"routeTables"`
	StreamRoutes []*model.StreamRoute `json:"streamRoutes"`
	Divisions    []*model.Division    `json:"divisions"`
	BackendTLS   []*model.BackendTLS  `json:"backendTLS"`
	Services     []*model.Service     `json:"services"`
	Gateways     []*model.Gateway     `json:"gateways"`
	Workloads    []*model.Workload    `json:"workloads"`
}

// Model returns the rows that the manifests come to, sorted by key.
func (m *Mesh) Model() *Model {
	snap := m.st.Snapshot()
	return &Model{
		RouteTables: all(m.st.RouteTables, snap), StreamRoutes: all(m.st.StreamRoutes, snap), Divisions: all(m.st.Divisions, snap), BackendTLS: all(m.st.BackendTLS, snap),
		Services: all(m.st.Services, snap),
		Gateways: all(m.st.Gateways, snap), Workloads: all(m.st.Workloads, snap),
	}
}

// RouteTables returns what happens to requests, sorted by table.
func (m *Mesh) RouteTables() []model.RouteTable {
	out := []model.RouteTable{}
	for t := range m.st.RouteTables.All(m.st.Snapshot()) {
		out = append(out, *t)
	}
	return out
}

func all[T any](t *state.Table[T], snap *state.Snapshot) []T {
	out := []T{}
	for v := range t.All(snap) {
		out = append(out, v)
	}
	return out
}
