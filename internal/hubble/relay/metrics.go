package relay

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Metrics of the API, which a controller exports with its others. Their labels have as many values as there are methods and
// codes, whatever callers send.
var (
	requestsDone = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_api_requests_total", Help: "Requests to the flows API and for the service map that have ended, those that were refused too.",
	}, []string{"method", "code"})
	requestsNow = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weft_api_requests_in_flight", Help: "Requests to the flows API and for the service map that are being answered.",
	}, []string{"method"})
)

// Metrics lists all that the package exports.
func Metrics() []prometheus.Collector { return []prometheus.Collector{requestsDone, requestsNow} }

func init() { prometheus.MustRegister(Metrics()...) }

// begun counts a request by gRPC as begun. Call what it returns at the end.
func begun(method string) func(error) {
	method = strings.TrimPrefix(method, "/")
	requestsNow.WithLabelValues(method).Inc()
	return func(err error) {
		requestsNow.WithLabelValues(method).Dec()
		requestsDone.WithLabelValues(method, status.Code(err).String()).Inc()
	}
}

// mapMethods are the paths of the service map that have a value of the label method of their own.
var mapMethods = map[string]string{"/v1/map": "map/Graph", "/v1/map/flows": "map/Flows"}

// httpCodes are the codes of answers by HTTP, as gRPC names them.
var httpCodes = map[int]codes.Code{
	http.StatusOK: codes.OK, http.StatusBadRequest: codes.InvalidArgument, http.StatusUnauthorized: codes.Unauthenticated,
	http.StatusForbidden: codes.PermissionDenied, http.StatusNotFound: codes.NotFound,
	http.StatusTooManyRequests: codes.ResourceExhausted, http.StatusServiceUnavailable: codes.Unavailable,
}

// counted counts the requests that a handler of the service map answers.
func counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method, ok := mapMethods[r.URL.Path]
		if !ok {
			method = "map/Page"
		}
		requestsNow.WithLabelValues(method).Inc()
		answer := &answered{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			requestsNow.WithLabelValues(method).Dec()
			code, ok := httpCodes[answer.status]
			if !ok {
				code = codes.Unknown
			}
			requestsDone.WithLabelValues(method, code.String()).Inc()
		}()
		next.ServeHTTP(answer, r)
	})
}

// answered remembers the status of an answer.
type answered struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }
