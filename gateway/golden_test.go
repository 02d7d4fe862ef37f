package gateway

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"iter"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var update = flag.Bool("update", false, "write the golden files anew")

var testConfig = Config{TrustDomain: "weft.test", Node: "node-1", NodeAddresses: []netip.Addr{netip.MustParseAddr("192.168.0.1")}}

// world is a translator with its tables.
type world struct {
	*Translator
	objs *kube.Objects
	st   *state.State
}

func newWorld(cfg Config) *world {
	db := state.NewDB()
	objs, st := kube.NewObjects(db), state.New(db)
	return &world{New(objs, st, cfg, slog.New(slog.DiscardHandler)), objs, st}
}

// Sync places the pods as their annotations say, and translates.
func (w *world) Sync() {
	txn := w.st.Write(w.st.Placements)
	snap := w.st.Snapshot()
	there := map[string]bool{}
	for p := range w.objs.Pods.All(snap) {
		if at := kube.PlacementOf(p, "/run/netns"); at != nil {
			there[at.Key()] = true
			w.st.Placements.Put(txn, at)
		}
	}
	for at := range w.st.Placements.All(snap) {
		if !there[at.Key()] {
			w.st.Placements.Delete(txn, at.Key())
		}
	}
	txn.Commit()
	w.Translator.Sync()
}

func (w *world) put(t testing.TB, objects ...runtime.Object) {
	t.Helper()
	txn := w.objs.Write()
	defer txn.Abort()
	for _, o := range objects {
		if err := w.objs.Put(txn, o); err != nil {
			t.Fatal(err)
		}
	}
	txn.Commit()
}

// modelOf returns all that the translator made, except statuses.
type modelOf struct {
	Workloads    []*model.Workload    `json:"workloads,omitempty"`
	Services     []*model.Service     `json:"services,omitempty"`
	Endpoints    []*model.Endpoints   `json:"endpoints,omitempty"`
	RouteTables  []*model.RouteTable  `json:"routeTables,omitempty"`
	StreamRoutes []*model.StreamRoute `json:"streamRoutes,omitempty"`
	Divisions    []*model.Division    `json:"divisions,omitempty"`
	BackendTLS   []*model.BackendTLS  `json:"backendTLS,omitempty"`
	Gateways     []*model.Gateway     `json:"gateways,omitempty"`
	Certificates []*model.Certificate `json:"certificates,omitempty"`
}

func (w *world) model() modelOf {
	s := w.st.Snapshot()
	return modelOf{
		collect(w.st.Workloads.All(s)), collect(w.st.Services.All(s)), collect(w.st.Endpoints.All(s)),
		collect(w.st.RouteTables.All(s)), collect(w.st.StreamRoutes.All(s)), collect(w.st.Divisions.All(s)), collect(w.st.BackendTLS.All(s)), collect(w.st.Gateways.All(s)), collect(w.st.Certificates.All(s)),
	}
}

func (w *world) statuses() []*model.Status { return collect(w.st.Statuses.All(w.st.Snapshot())) }

func collect[T any](seq iter.Seq[T]) []T { return slices.Collect(seq) }

// readObjects reads the documents of a manifest, strictly.
func readObjects(t testing.TB, path string) []runtime.Object {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := parseObjects(data)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return objects
}

var decoder = serializer.NewCodecFactory(kube.Scheme(), serializer.EnableStrict).UniversalDeserializer()

func parseObjects(data []byte) ([]runtime.Object, error) {
	var objects []runtime.Object
	docs := yamlutil.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		o, _, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			return nil, err
		}
		if s, ok := o.(*corev1.Secret); ok {
			fillSecret(s)
		}
		objects = append(objects, o)
	}
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		if strings.Contains(name, ".") {
			continue
		}
		cases++
		t.Run(name, func(t *testing.T) {
			w := newWorld(configOf(name))
			w.put(t, readObjects(t, path)...)
			w.Sync()
			golden(t, "testdata/"+name+".model.yaml", w.model())
			golden(t, "testdata/"+name+".status.yaml", w.statuses())
		})
	}
	if cases == 0 {
		t.Fatal("no cases in testdata")
	}
}

// configOf returns the place where a case is translated: a node alone unless its name says that it is a cluster's
// controller or one of a cluster's nodes.
func configOf(name string) Config {
	cfg := testConfig
	switch {
	case strings.HasPrefix(name, "controller-"):
		cfg.Addresses = AddressesOfPools
	case strings.HasPrefix(name, "cluster-node-"):
		cfg.Addresses = AddressesOfStatus
	}
	return cfg
}

func golden(t *testing.T, path string, v any) {
	t.Helper()
	got, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; make it with -update", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got; if it is meant, refresh with -update):\n%s", path, d)
	}
}

// fillSecret does what an API server does with stringData, and puts a fresh pair where the manifest says "generated".
func fillSecret(s *corev1.Secret) {
	s.Data = map[string][]byte{}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	if s.StringData[corev1.TLSCertKey] == "generated" {
		s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey] = keyPair()
	}
	s.StringData = nil
}

var keyPair = sync.OnceValues(func() (chain, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
})
