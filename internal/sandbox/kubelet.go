package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/weft-mesh/weft/internal/lab"
)

const (
	netnsAnnotation  = "weft.io/netns"
	cgroupAnnotation = "weft.io/cgroup"
	startTimeout     = 15 * time.Second
)

// manifest is the part of a manifest that the sandbox reads.
type manifest struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name        string            `yaml:"name"`
		Namespace   string            `yaml:"namespace"`
		Annotations map[string]string `yaml:"annotations"`
	} `yaml:"metadata"`
	Spec struct {
		ClusterIP  string `yaml:"clusterIP"`
		Containers []struct {
			Args  []string `yaml:"args"`
			Ports []struct {
				ContainerPort uint16 `yaml:"containerPort"`
			} `yaml:"ports"`
		} `yaml:"containers"`
	} `yaml:"spec"`
}

func (m *manifest) key() string { return m.Metadata.Namespace + "/" + m.Metadata.Name }

// podSpec is a pod whose processes are to be started.
type podSpec struct {
	*lab.Pod
	key   string
	args  [][]string // of each container
	ports []uint16
}

// admit fills in what Kubernetes would. Comments stay; text without Pods and Services stays as it is.
func (n *Node) admit(text []byte) ([]byte, []podSpec, error) {
	var docs []*yaml.Node
	var pods []podSpec
	changed := false
	for dec := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		docs = append(docs, &doc)
		var m manifest
		if err := doc.Decode(&m); err != nil {
			return nil, nil, err
		}
		if m.Metadata.Namespace == "" {
			m.Metadata.Namespace = "default"
		}
		switch m.Kind {
		case "Service":
			c, err := n.admitService(&doc, &m)
			if err != nil {
				return nil, nil, err
			}
			changed = changed || c
		case "Pod":
			p, err := n.admitPod(&doc, &m)
			if err != nil {
				return nil, nil, err
			}
			pods = append(pods, p)
			changed = true
		}
	}
	if !changed {
		return text, nil, nil
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for _, d := range docs {
		if err := enc.Encode(d); err != nil {
			return nil, nil, err
		}
	}
	return out.Bytes(), pods, enc.Close()
}

func (n *Node) admitService(doc *yaml.Node, m *manifest) (bool, error) {
	switch {
	case m.Spec.ClusterIP == "None":
		n.services[m.key()] = nil
		return false, nil
	case m.Spec.ClusterIP != "":
		a, err := netip.ParseAddr(m.Spec.ClusterIP)
		n.services[m.key()] = &a
		return false, err
	}
	a := n.services[m.key()]
	if a == nil {
		next := n.nextIP
		if !n.ServiceSubnet.Contains(next) {
			return false, fmt.Errorf("Service %s: %s is full", m.key(), n.ServiceSubnet)
		}
		n.nextIP = next.Next()
		a = &next
		n.services[m.key()] = a
	}
	return true, merge(doc, map[string]any{"spec": map[string]any{"clusterIP": a.String()}})
}

func (n *Node) admitPod(doc *yaml.Node, m *manifest) (podSpec, error) {
	p := n.pods[m.key()]
	if p == nil {
		var err error
		if p, err = n.Lab.AddPod(m.Metadata.Namespace + "-" + m.Metadata.Name); err != nil {
			return podSpec{}, err
		}
		n.pods[m.key()] = p
	}
	spec := podSpec{Pod: p, key: m.key()}
	for _, c := range m.Spec.Containers {
		spec.args = append(spec.args, c.Args)
		for _, port := range c.Ports {
			spec.ports = append(spec.ports, port.ContainerPort)
		}
	}
	return spec, merge(doc, map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{netnsAnnotation: p.NetNSName, cgroupAnnotation: p.Cgroup}},
		"status": map[string]any{
			"phase": "Running", "podIP": p.Address.String(),
			"podIPs":     []map[string]string{{"ip": p.Address.String()}, {"ip": p.Address6.String()}},
			"conditions": []map[string]string{{"type": "Ready", "status": "True"}},
		},
	})
}

// run starts the processes of a pod's containers.
func (n *Node) run(p podSpec) error {
	for _, args := range p.args {
		cmd := exec.Command(n.Binary, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C at a terminal ends the caller first
		if err := p.Start(cmd); err != nil {
			return fmt.Errorf("Pod %s: start weft %q: %w", p.key, args, err)
		}
		n.mu.Lock()
		n.procs = append(n.procs, cmd)
		n.mu.Unlock()
	}
	return nil
}

// answers waits until the pod's ports are open, seen from the pod itself.
func (n *Node) answers(ctx context.Context, p podSpec) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, port := range p.ports {
		for {
			c, err := p.Dial(ctx, "tcp", netip.AddrPortFrom(p.Address, port).String())
			if err == nil {
				_ = c.Close()
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("Pod %s does not answer on port %d: %w", p.key, port, err)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}

// merge sets values in a YAML mapping and leaves all else, comments too, as it is.
func merge(doc *yaml.Node, values map[string]any) error {
	if doc.Kind == yaml.DocumentNode {
		doc = doc.Content[0]
	}
	if doc.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: not a mapping", doc.Line)
	}
	for _, key := range sortedKeys(values) {
		value := values[key]
		old := valueOf(doc, key)
		if nested, ok := value.(map[string]any); ok && old != nil && old.Kind == yaml.MappingNode {
			if err := merge(old, nested); err != nil {
				return err
			}
			continue
		}
		var node yaml.Node
		if err := node.Encode(value); err != nil {
			return err
		}
		if old != nil {
			*old = node
		} else {
			doc.Content = append(doc.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, &node)
		}
	}
	return nil
}

func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

func sortedKeys(m map[string]any) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
