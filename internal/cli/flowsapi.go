package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/hubble"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/observe"
)

// flowsServer is the flows API of a cluster (package internal/hubble/relay), if it is to be asked in place of agents.
type flowsServer struct {
	address, roots, token string // host:port, and files
	port                  uint16 // of a controller's pod, where address is inCluster
}

// inCluster is the address that stands for a controller's pod, which is reached by a port that the API server forwards.
const inCluster = "cluster"

// Ports of a controller's pod: the flows API, and the service map.
const portFlows, portMap = 15024, 15025

// reachable returns the address to connect to. A port that is forwarded is so until ctx ends.
func (s *flowsServer) reachable(ctx context.Context, r *reach) (string, error) {
	if s.address != inCluster {
		return s.address, nil
	}
	c, err := survey.Open(r.Options)
	if err != nil {
		return "", fmt.Errorf("--server %s: %w", inCluster, err)
	}
	pods, err := c.Pods(ctx, r.namespace)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(pods, func(p survey.Pod) bool { return p.Component == survey.Controller && p.Ready })
	if at < 0 {
		return "", fmt.Errorf("%s: no controller of Weft in namespace %s is ready; see weft check, or name another namespace by --mesh-namespace", c.Host(), r.namespace)
	}
	return c.Forward(ctx, r.namespace, pods[at].Name, s.port)
}

func (s *flowsServer) flags(f *pflag.FlagSet) {
	s.port = portFlows
	f.StringVar(&s.address, "server", os.Getenv("WEFT_FLOWS_SERVER"), "address and port of the flows API, which needs no pods/exec and shows what your token may see: that of the Service weft-flows; or \"cluster\", which forwards a port by the API server and takes the right to create pods/portforward (default: $WEFT_FLOWS_SERVER, else agents are asked)")
	s.credentialFlags(f)
}

func (s *flowsServer) credentialFlags(f *pflag.FlagSet) {
	f.StringVar(&s.roots, "server-ca", "", "file with the mesh's roots (default: the ConfigMap weft-trust-bundle, by the kubeconfig)")
	f.StringVar(&s.token, "token-file", "", "file with the token for the flows API (default: the kubeconfig's)")
}

// dial connects to the API, and returns the context for its requests.
func (s *flowsServer) dial(ctx context.Context, r *reach) (context.Context, *grpc.ClientConn, error) {
	config, token, err := s.tls(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	address, err := s.reachable(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return nil, nil, fmt.Errorf("--server %s: %w", s.address, err)
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), conn, nil
}

// tls returns how to connect to the controllers, and the user's token.
func (s *flowsServer) tls(ctx context.Context, r *reach) (*tls.Config, string, error) {
	roots, token, err := s.credentials(ctx, r)
	if err != nil {
		return nil, "", err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(roots) {
		return nil, "", errors.New("--server-ca: no certificate in PEM")
	}
	return &tls.Config{RootCAs: pool, ServerName: "weft-flows." + r.namespace + ".svc", MinVersion: tls.VersionTLS13}, token, nil
}

// credentials are whom to trust, and who this is.
func (s *flowsServer) credentials(ctx context.Context, r *reach) (roots []byte, token string, err error) {
	var c *survey.Cluster
	if s.roots == "" || s.token == "" {
		if c, err = survey.Open(r.Options); err != nil {
			return nil, "", fmt.Errorf("%w; or give --server-ca and --token-file", err)
		}
	}
	if s.roots != "" {
		roots, err = os.ReadFile(s.roots)
	} else {
		roots, err = c.TrustBundle(ctx, r.namespace)
	}
	if err != nil {
		return nil, "", fmt.Errorf("the mesh's roots: %w; name a file by --server-ca", err)
	}
	if s.token == "" {
		if token, err = c.Token(ctx); err != nil {
			return nil, "", fmt.Errorf("%w; name a file with a token by --token-file", err)
		}
		return roots, token, nil
	}
	text, err := os.ReadFile(s.token)
	if err != nil {
		return nil, "", fmt.Errorf("--token-file: %w", err)
	}
	return roots, strings.TrimSpace(string(text)), nil
}

// flows prints the flows of all nodes, or of the one that --node names. matches is the exact form of the query's filters.
func (s *flowsServer) flows(ctx context.Context, r *reach, q api.FlowQuery, matches func(*observe.Flow) bool, print func(string, observe.Event) error, complaints io.Writer) error {
	ctx, conn, err := s.dial(ctx, r)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // it is over anyway
	in, err := observerpb.NewObserverClient(conn).GetFlows(ctx, flowsRequest(q, r.node))
	if err != nil {
		return s.failed(err)
	}
	var missing error
	away := absentNodes{}
	last := &lastEvents{most: q.Limit}
	for {
		m, err := in.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errors.Join(last.print(print), missing)
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return s.failed(err)
		}
		if away.note(m.GetNodeStatus(), complaints); len(away) > 0 {
			missing = ErrUnhealthy
		}
		if r.node != "" && m.GetNodeName() != r.node {
			continue // what other nodes lost
		}
		e := observe.Event{Lost: m.GetLostEvents().GetNumEventsLost()}
		if f := m.GetFlow(); f != nil {
			if e.Flow = hubble.FromFlow(f); !matches(e.Flow) {
				continue
			}
		}
		if e.Flow == nil && e.Lost == 0 {
			continue
		}
		if !q.Follow {
			last.add(m.GetNodeName(), e)
		} else if err := print(m.GetNodeName(), e); err != nil {
			return err
		}
	}
}

// absentNodes are the nodes whose flows are missing.
type absentNodes map[string]bool

// note prints that flows of nodes are missing, or that they come again.
func (a absentNodes) note(s *relaypb.NodeStatusEvent, complaints io.Writer) {
	for _, name := range s.GetNodeNames() {
		switch s.GetStateChange() {
		case relaypb.NodeState_NODE_UNAVAILABLE, relaypb.NodeState_NODE_ERROR:
			a[name] = true
			fmt.Fprintf(complaints, "%s: flows are missing: %s\n", printable(name), printable(s.GetMessage()))
		case relaypb.NodeState_NODE_CONNECTED:
			if a[name] {
				delete(a, name)
				fmt.Fprintf(complaints, "%s: flows come again\n", printable(name))
			}
		}
	}
}

func (s *flowsServer) failed(err error) error {
	st := grpcstatus.Convert(err)
	if st.Code() == codes.Unimplemented {
		return fmt.Errorf("%s does not serve this", s.address)
	}
	return fmt.Errorf("the flows API at %s: %s: %s", s.address, st.Code(), printable(st.Message()))
}

// lastEvents keeps the last flows, and what was lost between them.
type lastEvents struct {
	most int // flows; 0 is all
	all  []seen
}

func (l *lastEvents) add(node string, e observe.Event) {
	l.all = append(l.all, seen{node, e})
	if l.most > 0 && len(l.all) >= 4*l.most+64 {
		l.cut()
	}
}

// cut leaves the last flows.
func (l *lastEvents) cut() {
	flows := 0
	for i := len(l.all) - 1; i >= 0 && l.most > 0; i-- {
		if l.all[i].Flow != nil {
			flows++
		}
		if flows == l.most {
			l.all = slices.Clone(l.all[i:])
			return
		}
	}
}

func (l *lastEvents) print(print func(string, observe.Event) error) error {
	l.cut()
	for _, s := range l.all {
		if err := print(s.node, s.Event); err != nil {
			return err
		}
	}
	return nil
}

// flowsRequest asks for the flows of a query, and for more where Hubble's filters say less than Weft's: who reads the
// answer applies the query's filters too.
func flowsRequest(q api.FlowQuery, node string) *observerpb.GetFlowsRequest {
	out := &observerpb.GetFlowsRequest{Follow: q.Follow}
	if !q.Since.IsZero() {
		out.Since = timestamppb.New(q.Since)
	}
	if !q.Until.IsZero() {
		out.Until = timestamppb.New(q.Until)
	}
	t := q.Terms
	if q.Follow || t.Empty() {
		out.Number = uint64(max(q.Limit, 0))
	}
	f := &flowpb.FlowFilter{Protocol: wanted(t.Protocol), HttpMethod: wanted(t.Method)}
	for _, v := range wanted(t.Verdict) {
		f.Verdict = append(f.Verdict, map[observe.Verdict]flowpb.Verdict{
			observe.Forwarded: flowpb.Verdict_FORWARDED, observe.Refused: flowpb.Verdict_DROPPED, observe.Failed: flowpb.Verdict_ERROR,
		}[observe.Verdict(v)])
	}
	if node != "" {
		f.NodeName = []string{node}
	}
	namespaces := wanted(t.Namespace)
	if len(namespaces) == 0 {
		if proto.Size(f) > 0 {
			out.Whitelist = []*flowpb.FlowFilter{f}
		}
		return out
	}
	var pods []string
	for _, ns := range namespaces {
		pods = append(pods, ns+"/")
	}
	from, to := f, proto.CloneOf(f)
	from.SourcePod, to.DestinationPod = pods, pods
	out.Whitelist = []*flowpb.FlowFilter{from, to}
	return out
}

// wanted returns the values that do not begin with "!".
func wanted(values []string) []string {
	return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return strings.HasPrefix(v, "!") })
}
