package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpguts"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/model"
)

func newExplainCmd(run *string) *cobra.Command {
	var (
		out      output
		from, to string
		request  explain.Request
		headers  []string
	)
	r := reach{run: run}
	var server flowsServer
	cmd := &cobra.Command{
		Use:   "explain --from NAMESPACE/POD --to [KIND/]NAMESPACE/NAME[:PORT]",
		Short: "Say whether a connection or a request is allowed, by which way and which rule, and what would change that",
		Long: `Say what the mesh does with a connection or a request: whether it is allowed, whether it is encrypted and authenticated,
which way it takes, which route rule it meets, which mode or policy decides, and what would change that. --to names a
Service, a Pod or a Gateway; write service/, pod/ or gateway/ before the name where several have it.

The answer comes from the tables of the source's node, and for the destination's decision from those of the destination's
node. With --server the flows API of the cluster is asked: you must be allowed to list config.weft.io in the namespaces of both
ends, and of what else decides you see whether it allows the connection. Nothing is sent. Whether the application listens, and what network policies do, is not looked at.

The exit status is 0 if it is allowed, and 1 if it is refused or fails, at some of the endpoints too.`,
		Example: `  weft explain --from shop/app-1 --to shop/web:80
  weft explain --from shop/app-1 --to shop/web:80 --method POST --path /orders --header x-user=alice
  weft explain --from shop/app-1 --to pod/shop/web-1:8080`,
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			q, err := question(from, to, request, headers)
			if err != nil {
				return err
			}
			a, err := explained(cmd.Context(), &r, &server, q)
			if err != nil {
				return err
			}
			done, err := out.structured(cmd.OutOrStdout(), a)
			if err == nil && !done {
				err = printAnswer(cmd.OutOrStdout(), a)
			}
			if err == nil && a.Verdict != explain.Allowed {
				return ErrUnhealthy
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "the pod that connects: NAMESPACE/POD")
	f.StringVar(&to, "to", "", "what it connects to: [KIND/]NAMESPACE/NAME[:PORT]")
	f.StringVar(&request.Method, "method", "", "of the request (default GET)")
	f.StringVar(&request.Path, "path", "", "of the request, with its query (default /)")
	f.StringVar(&request.Host, "host", "", "of the request (default: NAME.NAMESPACE)")
	f.StringArrayVar(&headers, "header", nil, "of the request: NAME=VALUE; may be given several times")
	_ = cmd.MarkFlagRequired("from")
	_ = cmd.MarkFlagRequired("to")
	out.flag(cmd, "table", "json", "yaml")
	r.flags(f)
	server.flags(f)
	return cmd
}

func question(from, to string, request explain.Request, headers []string) (q explain.Question, err error) {
	from = strings.TrimPrefix(strings.ToLower(from), "pod/")
	if ns, name := model.SplitKey(from); ns == "" || name == "" || strings.ContainsAny(name, "/:") {
		return q, fmt.Errorf("--from %q is not of the form NAMESPACE/POD", from)
	}
	q.From = from
	if q.To, err = explain.ParseTarget(to); err != nil {
		return q, fmt.Errorf("--to %w", err)
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return q, fmt.Errorf("--header %q is not of the form NAME=VALUE", h)
		}
		request.Headers = append(request.Headers, model.Header{Name: strings.ToLower(name), Value: value})
	}
	switch odd := func(r rune) bool { return r <= ' ' || r == 0x7f }; {
	case request.Path != "" && !strings.HasPrefix(request.Path, "/"):
		return q, fmt.Errorf("--path %q does not begin with a slash", request.Path)
	case strings.ContainsFunc(request.Path, odd), strings.ContainsFunc(request.Host, odd):
		return q, fmt.Errorf("a request cannot have a space or a control character in --path %q or --host %q", request.Path, request.Host)
	case request.Method != "" && !httpguts.ValidHeaderFieldName(request.Method): // both are tokens (RFC 9110, 5.6.2)
		return q, fmt.Errorf("--method %q is no method", request.Method)
	}
	if request.Method != "" || request.Path != "" || request.Host != "" || len(request.Headers) > 0 {
		q.Request = &request
	}
	return q, nil
}

// explained asks this machine's agent, or that of the source's node and those of the destinations', or the flows API.
func explained(ctx context.Context, r *reach, server *flowsServer, q explain.Question) (*explain.Answer, error) {
	if server.address != "" {
		return server.explain(ctx, r, api.ExplainQuestion{Question: q, Node: r.node})
	}
	if c := r.local(); c != nil {
		a, err := c.Explain(ctx, q)
		if err == nil {
			api.NoteRemote(a)
		}
		return a, err
	}
	f, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	return f.asked().Explain(ctx, q)
}

func printAnswer(w io.Writer, a *explain.Answer) error {
	fmt.Fprintf(w, "%s -> %s: %s\n", printable(a.From), printable(a.To), strings.ToUpper(string(a.Verdict)))
	if why := a.Why; why != "" {
		fmt.Fprintf(w, "  %s%s\n", printable(why), status(a.Status))
	}
	if r := a.Request; r != nil {
		assumed := ""
		if a.Assumed {
			assumed = " (assumed: name another with --method, --path, --host, --header)"
		}
		fmt.Fprintf(w, "\nRequest: %s %s, host %s%s\n", printable(r.Method), printable(r.Path), printable(r.Host), assumed)
	}
	if r := a.Route; r != nil {
		name := fmt.Sprintf("%s[%d]", r.Rule.Route, r.Rule.Index)
		if r.Rule.Name != "" {
			name += " " + r.Rule.Name
		}
		fmt.Fprintf(w, "Rule:    %s, number %d of %s for %s\n", printable(name), r.Place, printable(r.Table), printable(strings.Join(r.Hosts, ",")))
		fmt.Fprintf(w, "         %s -> %s\n", printable(match(*r.Rule)), printable(action(*r.Rule)))
	}
	if len(a.Ends) > 0 {
		fmt.Fprintln(w)
		if err := printEnds(w, a.Ends); err != nil {
			return err
		}
	}
	printList(w, "What would change it:", a.Changes)
	printList(w, "Notes:", a.Notes)
	return nil
}

func status(code int) string {
	if code == 0 {
		return ""
	}
	return fmt.Sprintf(" (HTTP status %d)", code)
}

func printEnds(w io.Writer, ends []explain.End) error {
	return printTable(w, ends, []column[explain.End]{
		{head: "SHARE", of: func(e explain.End) string { return fmt.Sprintf("%.3g%%", 100*e.Share) }},
		{head: "BACKEND", of: func(e explain.End) string { return e.Service }},
		{head: "ENDPOINT", of: func(e explain.End) string {
			if !e.Address.IsValid() {
				return ""
			}
			return e.Address.String()
		}},
		{head: "POD", of: func(e explain.End) string { return e.Workload }},
		{head: "NODE", of: func(e explain.End) string { return e.Node }},
		{head: "WAY", of: func(e explain.End) string { return string(e.Way) }},
		{head: "MTLS", of: func(e explain.End) string { return yesNo(e.Way.Authenticated()) }},
		{head: "VERDICT", of: func(e explain.End) string { return string(e.Verdict) + status(e.Status) }},
		{head: "DECIDED BY", of: func(e explain.End) string {
			if e.By == "" {
				return e.Why
			}
			return e.By
		}},
	}, false)
}

func printList(w io.Writer, head string, list []string) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", head)
	for _, s := range list {
		fmt.Fprintf(w, "  %s\n", printable(s))
	}
}
