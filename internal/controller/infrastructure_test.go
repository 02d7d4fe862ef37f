package controller

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/weft-mesh/weft/internal/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGatewayService compares what is applied for the Gateways of testdata/services with golden files.
func TestGatewayService(t *testing.T) {
	files, err := filepath.Glob("testdata/services/*.gateway.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			gw := &gwv1.Gateway{}
			if err := yaml.UnmarshalStrict(data, gw); err != nil {
				t.Fatal(err)
			}
			got := []byte("none\n")
			if svc := gatewayService(gw, nil); svc != nil {
				text, err := manifest(svc)
				if err != nil {
					t.Fatal(err)
				}
				if got, err = yaml.JSONToYAML(text); err != nil {
					t.Fatal(err)
				}
				if again, _ := manifest(gatewayService(gw, nil)); string(again) != string(text) {
					t.Error("the manifest is another the second time")
				}
				if !applied(svc, svc) {
					t.Error("what was applied does not count as applied")
				}
			}
			golden := strings.TrimSuffix(path, ".gateway.yaml") + ".service.yaml"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestApplied(t *testing.T) {
	gw := &gwv1.Gateway{Spec: gwv1.GatewaySpec{
		GatewayClassName: "weft",
		Listeners:        []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}},
		Infrastructure:   &gwv1.GatewayInfrastructure{Labels: map[gwv1.LabelKey]gwv1.LabelValue{"a": "b"}},
	}}
	gw.Namespace, gw.Name = "ns", "gw"
	want := gatewayService(gw, nil)
	if _, err := manifest(want); err != nil {
		t.Fatal(err)
	}
	have := want.DeepCopy()
	have.Labels["other"], have.Annotations["other"] = "x", "y"
	have.Spec.ClusterIP, have.Spec.Ports[0].TargetPort.IntVal = "10.96.0.7", 80
	if !applied(have, want) {
		t.Error("what others and the API server added counts")
	}
	delete(have.Labels, "a")
	if applied(have, want) {
		t.Error("a label that somebody took away does not count")
	}
	gw.Spec.Infrastructure = nil
	less := gatewayService(gw, nil)
	if _, err := manifest(less); err != nil {
		t.Fatal(err)
	}
	if applied(want, less) {
		t.Error("a label that is not wanted any more does not count")
	}
}

// TestPortsOfListenerSets: a Gateway's Service has the ports that it has by its ListenerSets alone while they are served.
func TestPortsOfListenerSets(t *testing.T) {
	gw := &gwv1.Gateway{Spec: gwv1.GatewaySpec{Listeners: []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}}}}
	sets := model.ListenerSets{Only: true}
	served := []model.GatewayPort{{Port: 80}, {Port: 8443, TLS: true, ListenerSets: sets}, {Port: 8443, UDP: true, ListenerSets: sets}}
	var got []string
	for _, p := range gatewayPorts(gw, served) {
		got = append(got, fmt.Sprintf("%s %d %s", p.Name, p.Port, p.Protocol))
	}
	if want := []string{"http-80 80 TCP", "listener-set-8443 8443 TCP", "listener-set-udp-8443 8443 UDP"}; !slices.Equal(got, want) {
		t.Errorf("ports %q, want %q", got, want)
	}
}
