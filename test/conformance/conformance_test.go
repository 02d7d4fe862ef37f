package conformance

import (
	"flag"
	"os"
	"testing"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

// profiles are those that the mesh declares.
var profiles = []suite.ConformanceProfile{
	suite.GatewayHTTPConformanceProfile,
	suite.GatewayGRPCConformanceProfile,
	suite.GatewayTLSConformanceProfile,
	suite.GatewayTCPConformanceProfile,
	suite.GatewayUDPConformanceProfile,
	suite.MeshHTTPConformanceProfile,
	suite.MeshGRPCConformanceProfile,
}

var tablePath = flag.String("table-output", "", "file for the table of results")

// TestConformance runs the suite on the cluster of $KUBECONFIG. Which features it tests is told by the status of the
// GatewayClass and of the XMesh, as users learn it. Flags of the suite, after -args, come before what is set here.
func TestConformance(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Fatal("KUBECONFIG names no cluster: make conformance sets it")
	}
	o := conformance.DefaultOptions(t)
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["gateway-class"] {
		o.GatewayClassName = "weft"
	}
	if !given["mesh-name"] {
		o.MeshName = "weft"
	}
	if !given["conformance-profiles"] {
		for _, p := range profiles {
			o.ConformanceProfiles = append(o.ConformanceProfiles, p.Name)
		}
	}
	if !given["usable-address"] {
		o.UsableNetworkAddresses = address("10.89.1.200") // of the pool
	}
	if !given["unusable-address"] {
		o.UnusableNetworkAddresses = address("192.0.2.1") // RFC 5737: nobody's
	}
	o.Implementation = confv1.Implementation{
		Organization: "weft-mesh", Project: "weft", URL: "https://github.com/weft-mesh/weft",
		Version: o.Implementation.Version, Contact: []string{"https://github.com/weft-mesh/weft/issues"},
	}
	if o.Implementation.Version == "" {
		o.Implementation.Version = "unknown"
	}
	o.TimeoutConfig.DefaultPollInterval = 500 * time.Millisecond // ten times a second would keep a small machine busy
	table := newTable()
	o.Hook = func(t *testing.T, test suite.ConformanceTest, _ *suite.ConformanceTestSuite) { table.add(t, test) }
	t.Cleanup(func() { table.write(t, *tablePath) })
	conformance.RunConformanceWithOptions(t, o)
}

func address(value string) []gwv1.GatewaySpecAddress {
	kind := gwv1.IPAddressType
	return []gwv1.GatewaySpecAddress{{Type: &kind, Value: value}}
}
