//go:build cluster

package controller

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

const namespace = "weft-system"

// grant installs the roles and admission policies of the manifest that is shipped.
func (w *world) grant() {
	w.Helper()
	data, err := os.ReadFile("../../install/weft.yaml")
	if err != nil {
		w.Fatal(err)
	}
	w.create(`{apiVersion: v1, kind: Namespace, metadata: {name: ` + namespace + `}}`)
	docs := yamlutil.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			w.Fatal(err)
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &o.Object); err != nil {
			w.Fatal(err)
		}
		if !slices.Contains([]string{
			"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
		}, o.GetKind()) {
			continue
		}
		if _, err := w.resource(o).Create(w.Context(), o, metav1.CreateOptions{}); err != nil {
			w.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// as returns a client's configuration with what a component may do, and nothing else.
func (w *world) as(component string) *rest.Config {
	cfg := rest.CopyConfig(w.cfg)
	cfg.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + namespace + ":weft-" + component,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
	return cfg
}
