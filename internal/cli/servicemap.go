package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/servicemap"
	"github.com/weft-mesh/weft/internal/servicemap/web"
)

// mapServer is the service map of a cluster's controllers, if it is to be asked in place of agents.
type mapServer struct{ flowsServer }

func (s *mapServer) flags(f *pflag.FlagSet) {
	s.port = portMap
	f.StringVar(&s.address, "server", os.Getenv("WEFT_MAP_SERVER"), "address and port of the controllers' service map, which needs no pods/exec: that of the Service weft-flows, port 8443; or \"cluster\", which forwards a port by the API server and takes the right to create pods/portforward (default: $WEFT_MAP_SERVER, else agents are asked)")
	s.credentialFlags(f)
}

// proxy returns what passes on the page's questions to the controllers in the user's name. Who asks it must be the user.
func (s *mapServer) proxy(ctx context.Context, r *reach) (*http.Transport, *httputil.ReverseProxy, error) {
	config, token, err := s.tls(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	transport := &http.Transport{TLSClientConfig: config, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: 30 * time.Second}
	address, err := s.reachable(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	to := &url.URL{Scheme: "https", Host: address}
	if err := s.try(ctx, transport, to, token); err != nil {
		transport.CloseIdleConnections()
		return nil, nil, err
	}
	return transport, &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Header = http.Header{"Authorization": {"Bearer " + token}}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, fmt.Sprintf("the service map at %s: %v", s.address, err), http.StatusBadGateway)
		},
	}, nil
}

// try asks for the map, so that what is wrong is said now and not in the browser.
func (s *mapServer) try(ctx context.Context, transport http.RoundTripper, to *url.URL, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.JoinPath("v1/map").String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	answer, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("the service map at %s: %w", s.address, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return fmt.Errorf("the service map at %s: %s: %s", s.address, answer.Status, printable(strings.TrimSpace(string(text))))
	}
	_, _ = io.Copy(io.Discard, answer.Body) // the page asks again
	return nil
}

// agentsMap returns the service map of this machine's agent, or of a cluster's.
func agentsMap(ctx context.Context, r *reach) (api.ServiceMap, error) {
	if c := r.local(); c != nil {
		return api.ServiceMap{{Client: c}}, nil
	}
	f, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	var out api.ServiceMap
	for _, p := range f.agents {
		out = append(out, api.MapAgent{Node: p.Node, Client: f.client(p)})
	}
	return out, nil
}

func newMapCmd(run *string) *cobra.Command {
	var server mapServer
	var address string
	var open bool
	r := reach{run: run}
	cmd := &cobra.Command{
		Use:   "map",
		Short: "Show who talks to whom as a page in the browser",
		Long: `Show who talks to whom as a page in the browser: workloads by namespace, and edges with rates, errors, latency, refusals and
whether both ends proved who they are. A click on an edge shows its last flows and what decided.

The page is served on this machine's loopback, for the bearer of the token that is in the printed address. It is asked of this
machine's agent, else of all nodes of the cluster through pods/exec, or with --server of the controllers, which show what your
token may see.`,
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			page, err := web.Listen(address)
			if err != nil {
				return err
			}
			defer page.Close()
			serve, err := mapPage(cmd.Context(), page, &server, &r)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The service map is at %s\nCtrl-C ends it.\n", page.URL)
			if open {
				if err := exec.CommandContext(cmd.Context(), "xdg-open", page.URL).Start(); err != nil {
					fmt.Fprintf(cmd.ErrOrStderr(), "no browser can be opened (%v): open the address yourself\n", err)
				}
			}
			return serve(cmd.Context())
		},
	}
	r.flags(cmd.Flags())
	server.flags(cmd.Flags())
	cmd.Flags().StringVar(&address, "address", "127.0.0.1:0", "loopback address and port of the page")
	cmd.Flags().BoolVar(&open, "open", false, "open the page in the browser, by xdg-open")
	return cmd
}

// mapPage returns what serves the page.
func mapPage(ctx context.Context, page *web.Loopback, server *mapServer, r *reach) (func(context.Context) error, error) {
	if server.address == "" {
		m, err := agentsMap(ctx, r)
		if err != nil {
			return nil, err
		}
		if _, err := m.Graph(ctx); err != nil { // said now, and not in the browser
			return nil, err
		}
		return func(ctx context.Context) error { return page.ServeView(ctx, m) }, nil
	}
	transport, proxy, err := server.proxy(ctx, r)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		defer transport.CloseIdleConnections()
		return page.ServeProxy(ctx, proxy)
	}, nil
}

func newEdgesCmd(run *string) *cobra.Command {
	var out output
	r := reach{run: run}
	var server flowsServer
	measure := 5 * time.Second
	cmd := &cobra.Command{
		Use:   "edges",
		Short: "List who talks to whom, with rates, errors and latency",
		Long: `List who talks to whom: what weft map shows, as a table, as JSON, or as DOT for Graphviz. It is measured for --for, or for as
long as somebody has looked at the map. With --server the flows API of the cluster is asked, which shows the edges with an end in
a namespace whose flows your token may list.`,
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			g, err := edges(cmd.Context(), &server, &r, measure)
			if err != nil {
				return err
			}
			if err := printEdges(cmd.OutOrStdout(), &out, g); err != nil {
				return err
			}
			return missingEdges(cmd, g)
		},
	}
	out.flag(cmd, "table", "json", "dot")
	r.flags(cmd.Flags())
	server.flags(cmd.Flags())
	cmd.Flags().DurationVar(&measure, "for", measure, "how long to measure")
	return cmd
}

// missingEdges names the nodes that a graph lacks. It returns ErrUnhealthy if there are some.
func missingEdges(cmd *cobra.Command, g *servicemap.Graph) error {
	for _, node := range g.Missing {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s does not answer: its edges are missing\n", printable(node))
	}
	if len(g.Missing) > 0 {
		return ErrUnhealthy
	}
	return nil
}

// edges returns the graph of agents, or of a server, after a time.
func edges(ctx context.Context, server *flowsServer, r *reach, after time.Duration) (*servicemap.Graph, error) {
	if after < 0 {
		return nil, fmt.Errorf("--for %s must not be negative", after)
	}
	graph := func(ctx context.Context) (*servicemap.Graph, error) { return server.edges(ctx, r) }
	if server.address == "" {
		m, err := agentsMap(ctx, r)
		if err != nil {
			return nil, err
		}
		graph = m.Graph
	}
	if _, err := graph(ctx); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(after):
	}
	return graph(ctx)
}

// quantile is a time in seconds as text; "" for none.
func quantile(seconds *float64) string {
	if seconds == nil {
		return ""
	}
	return time.Duration(*seconds * float64(time.Second)).Round(10 * time.Microsecond).String()
}

func printEdges(w io.Writer, out *output, g *servicemap.Graph) error {
	if out.format == "dot" {
		return servicemap.WriteDOT(w, g)
	}
	if done, err := out.structured(w, g); done {
		return err
	}
	names := map[string]string{}
	for _, n := range g.Nodes {
		names[n.ID] = n.String()
	}
	return printTable(w, g.Edges, []column[servicemap.Edge]{
		{head: "FROM", of: func(e servicemap.Edge) string { return names[e.From] }},
		{head: "TO", of: func(e servicemap.Edge) string { return names[e.To] }},
		{head: "MTLS", of: func(e servicemap.Edge) string { return e.MTLS }},
		{head: "REQ/S", of: func(e servicemap.Edge) string { return servicemap.Rate(e.Requests) }},
		{head: "ERR/S", of: func(e servicemap.Edge) string { return servicemap.Rate(e.Errors) }},
		{head: "P50", of: func(e servicemap.Edge) string { return quantile(e.P50) }},
		{head: "P99", of: func(e servicemap.Edge) string { return quantile(e.P99) }},
		{head: "CONN/S", of: func(e servicemap.Edge) string { return servicemap.Rate(e.Connections) }},
		{head: "FAILED/S", of: func(e servicemap.Edge) string { return servicemap.Rate(e.Failed) }},
		{head: "UDP/S", of: func(e servicemap.Edge) string { return servicemap.Rate(e.Exchanges) }},
		{head: "DNS/S", of: func(e servicemap.Edge) string { return servicemap.Rate(e.Questions) }},
		{head: "REFUSED/S", of: func(e servicemap.Edge) string { return servicemap.Rate(e.Refused + e.RefusedRequests) }},
	}, false)
}
