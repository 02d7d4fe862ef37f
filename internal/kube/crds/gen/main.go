// Command gen takes the Gateway API's CRDs out of the module that go.mod names and keeps what a validator needs:
// the schema of the version that is read, without descriptions.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// kinds are the ones that package kube reads.
var kinds = []string{"gatewayclasses", "gateways", "listenersets", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes", "referencegrants", "backendtlspolicies", "xtelemetrypolicies"}

// experimental begins the names of kinds of the group gateway.networking.x-k8s.io, which are read as v1alpha1.
const experimental = "x"

type crd struct {
	Spec struct {
		Group string `json:"group"`
		Names struct {
			Kind string `json:"kind"`
		} `json:"names"`
		Versions []struct {
			Name   string `json:"name"`
			Served bool   `json:"served"`
			Schema struct {
				OpenAPI map[string]any `json:"openAPIV3Schema"`
			} `json:"schema"`
		} `json:"versions"`
	} `json:"spec"`
}

type out struct {
	Group    string         `json:"group"`
	Kind     string         `json:"kind"`
	Versions []string       `json:"versions"` // that are served
	Schema   map[string]any `json:"schema"`   // of the version that is read
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	mod, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		return fmt.Errorf("looking for the module: %w", err)
	}
	for _, k := range kinds {
		group, version := "gateway.networking.k8s.io", "v1"
		if strings.HasPrefix(k, experimental) {
			group, version = "gateway.networking.x-k8s.io", "v1alpha1"
		}
		src := filepath.Join(strings.TrimSpace(string(mod)), "config/crd/experimental", group+"_"+k+".yaml")
		if err := convert(src, filepath.Join(dir, k+".json"), version); err != nil {
			return fmt.Errorf("%s: %w", src, err)
		}
	}
	return nil
}

func convert(src, dst, version string) error {
	data, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	var in crd
	if err := yaml.Unmarshal(data, &in); err != nil {
		return err
	}
	o := out{Group: in.Spec.Group, Kind: in.Spec.Names.Kind}
	for _, v := range in.Spec.Versions {
		if !v.Served {
			continue
		}
		o.Versions = append(o.Versions, v.Name)
		if v.Name == version {
			strip(v.Schema.OpenAPI)
			// The status is the mesh's to write, never a manifest's.
			delete(v.Schema.OpenAPI["properties"].(map[string]any), "status")
			o.Schema = v.Schema.OpenAPI
		}
	}
	if o.Schema == nil {
		return fmt.Errorf("serves no %s", version)
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return os.WriteFile(dst, append(text, '\n'), 0o644)
}

// strip removes descriptions. A property may be called description too: that one is an object.
func strip(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, ok := v["description"].(string); ok {
			delete(v, "description")
		}
		for _, c := range v {
			strip(c)
		}
	case []any:
		for _, c := range v {
			strip(c)
		}
	}
}
