package relay

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/describe"
	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/model"
)

// ask asks the cluster as the bearer of a token.
func (c *cluster) ask(token string, q api.Question) (*api.MeshAnswer, error) {
	c.t.Helper()
	return api.AskMesh(c.as(token), c.conn(), q)
}

// said says which node gave which workloads or services, and why others gave nothing.
func said(t *testing.T, a *api.MeshAnswer, what string) string {
	t.Helper()
	var out []string
	for _, n := range a.Nodes {
		if n.Error != "" {
			out = append(out, n.Name+": "+n.Error)
			continue
		}
		var names []string
		if what == api.AskStatus {
			var s api.Status
			if err := json.Unmarshal(a.Values[n.ID].Value, &s); err != nil {
				t.Fatal(err)
			}
			names = append(names, s.Agent.Node)
			for _, w := range s.Workloads {
				names = append(names, w.Namespace+"/"+w.Name)
			}
		} else {
			var list []model.Service
			if err := json.Unmarshal(a.Values[n.ID].Value, &list); err != nil {
				t.Fatal(err)
			}
			for _, s := range list {
				names = append(names, s.Key())
			}
		}
		out = append(out, n.Name+" "+strings.Join(names, ","))
	}
	return strings.Join(out, "; ")
}

// TestRows: a reader gets what nodes say of the namespaces whose rows he may list, each value once.
func TestRows(t *testing.T) {
	c := newCluster(t, Times{})
	c.config.set("shop", []string{"shop"})
	c.config.set("admin", nil)
	c.config.set("flows", []string{})
	c.rights.set("flows", nil) // flows are another right
	c.agent("a")
	c.agent("b")
	c.mu.Lock()
	c.expected = append(c.expected, "gone")
	c.mu.Unlock()

	const gone = "; gone: its agent is not connected"
	for _, tc := range []struct {
		token  string
		q      api.Question
		want   string
		values int
	}{
		{"admin", api.Question{What: api.Services}, "a shop/app,store/web; b shop/app,store/web" + gone, 1},
		{"shop", api.Question{What: api.Services}, "a shop/app; b shop/app" + gone, 1},
		{"shop", api.Question{What: api.Services, Scope: api.Scope{All: true}}, "a shop/app; b shop/app" + gone, 1}, // the controller decides
		{"shop", api.Question{What: api.Services, Namespace: "store"}, "a ; b " + gone, 1},
		{"admin", api.Question{What: api.Services, Name: "web", Node: "b"}, "b store/web", 1},
		{"admin", api.Question{What: api.Services, Node: "gone"}, "gone: its agent is not connected", 0},
		{"admin", api.Question{What: api.AskStatus}, "a a,shop/app-1,store/web-1; b b,shop/app-1,store/web-1" + gone, 2},
		{"shop", api.Question{What: api.AskStatus}, "a ,shop/app-1; b ,shop/app-1" + gone, 1},
	} {
		a, err := c.ask(tc.token, tc.q)
		if err != nil {
			t.Errorf("%s %+v: %v", tc.token, tc.q, err)
			continue
		}
		if got := said(t, a, tc.q.What); got != tc.want || len(a.Values) != tc.values || a.Scope.All != (tc.token == "admin") {
			t.Errorf("%s %+v: %s, %d values, scope %+v; want %s", tc.token, tc.q, got, len(a.Values), a.Scope, tc.want)
		}
	}
	for _, tc := range []struct {
		token string
		q     api.Question
		code  codes.Code
		says  string
	}{
		{"x", api.Question{What: api.Services}, codes.Unauthenticated, "the token is not one"},
		{"flows", api.Question{What: api.Services}, codes.PermissionDenied, "may list config.weft.io in no namespace; see the ClusterRole weft-viewer"},
		{"admin", api.Question{What: "secrets"}, codes.InvalidArgument, `"secrets"`},
		{"admin", api.Question{What: api.Services, Node: "nowhere"}, codes.NotFound, "node nowhere"},
	} {
		if _, err := c.ask(tc.token, tc.q); status.Code(err) != tc.code || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s %+v: %v", tc.token, tc.q, err)
		}
	}
}

// TestEdges: the service map is for those who may list flows.
func TestEdges(t *testing.T) {
	c := newCluster(t, Times{})
	c.agent("a").counted(flow(1, "store/web-1", 200), within(2))
	for token, want := range map[string]int{"admin": 2, "shop": 1} {
		g, err := api.AskEdges(c.as(token), c.conn())
		if err != nil || len(g.Edges) != want || (len(g.Namespaces) == 0) != (token == "admin") {
			t.Errorf("%s: %+v, error %v", token, g, err)
		}
	}
	if _, err := api.AskEdges(c.as("nobody"), c.conn()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("nobody: %v", err)
	}
}

// TestAgentWithoutRows: an agent of an earlier version, and one that does not answer, are named; the others answer.
func TestAgentWithoutRows(t *testing.T) {
	c := newCluster(t, Times{Node: 3 * time.Second, Client: DefaultTimes.Client, Review: DefaultTimes.Review})
	c.config.set("admin", nil)
	c.agent("a")
	c.agentWith("old", nil)
	c.agentWith("slow", func(server grpc.ServiceRegistrar) {
		server.RegisterService(&grpc.ServiceDesc{ServiceName: "weft.api.v1.Node", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
			MethodName: "Ask", Handler: func(_ any, ctx context.Context, in func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				if err := in(&wrapperspb.BytesValue{}); err != nil {
					return nil, err
				}
				<-ctx.Done()
				return nil, ctx.Err()
			},
		}}}, nil)
	})
	a, err := c.ask("admin", api.Question{What: api.Services})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := said(t, a, api.Services), "a shop/app,store/web; old: its agent is of an earlier version; slow: it does not answer in time"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	d, err := api.AskDescribe(c.as("admin"), c.conn(), api.DescribeQuestion{Question: describe.Question{Kind: describe.KindService, Name: "shop/app"}})
	if err != nil {
		t.Fatal(err)
	}
	var problems []string
	for _, p := range d.Problems {
		problems = append(problems, p.What)
	}
	if got, want := strings.Join(problems, "; "), "node old does not tell: its agent is of an earlier version; node slow does not tell: its agent is of an earlier version"; d.Node != "a" || got != want {
		t.Errorf("node %s: %s, want %s", d.Node, got, want)
	}
}

// TestAsked: the answer about an object or a connection is for those who may list the rows of its namespaces. What a reader says of
// his scope does not count.
func TestAsked(t *testing.T) {
	c := newCluster(t, Times{})
	c.config.set("shop", []string{"shop"})
	c.config.set("admin", nil)
	c.agent("a")
	everything := api.Scope{All: true}
	for _, tc := range []struct {
		token, of string
		code      codes.Code
	}{
		{"admin", "store/web", codes.OK}, {"shop", "shop/app", codes.OK}, {"shop", "store/web", codes.PermissionDenied}, {"shop", "web", codes.PermissionDenied},
		{"admin", "web", codes.InvalidArgument}, {"admin", "shop/gone", codes.NotFound}, {"x", "shop/app", codes.Unauthenticated},
	} {
		_, err := api.AskDescribe(c.as(tc.token), c.conn(), api.DescribeQuestion{Question: describe.Question{Kind: describe.KindService, Name: tc.of}, Scope: everything})
		if status.Code(err) != tc.code {
			t.Errorf("%s describes %s: %v", tc.token, tc.of, err)
		}
	}
	for _, tc := range []struct {
		token, from, to string
		code            codes.Code
	}{
		{"admin", "shop/app-1", "store/web-1", codes.OK}, {"shop", "shop/app-1", "shop/app-1", codes.OK}, {"shop", "shop/app-1", "store/web-1", codes.PermissionDenied},
		{"shop", "store/web-1", "shop/app-1", codes.PermissionDenied}, {"shop", "", "shop/app-1", codes.InvalidArgument}, {"nobody", "shop/app-1", "shop/app-1", codes.Unauthenticated},
	} {
		q := explain.Question{From: tc.from, To: explain.Target{Kind: explain.KindPod, Name: tc.to, Port: 80}}
		if a, err := api.AskExplain(c.as(tc.token), c.conn(), api.ExplainQuestion{Question: q, Scope: everything}); status.Code(err) != tc.code {
			t.Errorf("%s explains %+v: %+v, error %v", tc.token, q, a, err)
		}
	}
}

// TestMetrics: requests are counted by method and code, refused ones too, and none stays in flight.
func TestMetrics(t *testing.T) {
	c := newCluster(t, Times{})
	c.config.set("admin", nil)
	c.agent("a")
	get := c.serveMap()
	count := func(method, code string) float64 {
		return testutil.ToFloat64(requestsDone.WithLabelValues(method, code))
	}
	const ask, page = "weft.api.v1.Mesh/Ask", "map/Graph"
	before := []float64{count(ask, "OK"), count(ask, "Unauthenticated"), count(page, "OK"), count(page, "PermissionDenied")}
	for _, token := range []string{"admin", "x"} {
		_, _ = c.ask(token, api.Question{What: api.Services})
	}
	for token, want := range map[string]int{"admin": http.StatusOK, "nobody": http.StatusForbidden} {
		if status, text := get(token, "/v1/map", nil); status != want {
			t.Errorf("%s: %d %s", token, status, text)
		}
	}
	after := []float64{count(ask, "OK"), count(ask, "Unauthenticated"), count(page, "OK"), count(page, "PermissionDenied")}
	for i := range before {
		if after[i] != before[i]+1 {
			t.Errorf("count %d: %v before and %v after", i, before[i], after[i])
		}
	}
	for _, method := range []string{ask, page} {
		if n := testutil.ToFloat64(requestsNow.WithLabelValues(method)); n != 0 {
			t.Errorf("%s: %v in flight", method, n)
		}
	}
}
