// Shows the routes of the service with Swagger UI, if its script could be loaded.

/* global SwaggerUIBundle */
if (globalThis.SwaggerUIBundle) SwaggerUIBundle({ url: "openapi.json", dom_id: "#routes", deepLinking: true });
